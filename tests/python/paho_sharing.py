"""paho-mqtt against the broker on the given port: two clients share a subscription, and each message
comes to one of them; what one leaves unacknowledged when it goes comes to the other."""

import queue
import sys

import paho.mqtt.client as mqtt

HOST, PORT = "127.0.0.1", int(sys.argv[1])
LIMIT = 30
SHARED = "$share/workers/jobs/+"


class Client:
    def __init__(self, name, inbox, manual=False):
        self.inbox = inbox
        self.events = queue.Queue()
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=mqtt.MQTTv5,
            manual_ack=manual,
        )
        self.mqtt.on_connect = lambda *rest: self.events.put(rest[4])
        self.mqtt.on_subscribe = lambda *rest: self.events.put([code.value for code in rest[3]])
        self.mqtt.on_message = lambda client, data, message: inbox.put((name, message.payload.decode()))
        self.mqtt.connect(HOST, PORT, keepalive=30)
        self.mqtt.loop_start()
        properties = self.events.get(timeout=LIMIT)
        assert getattr(properties, "SharedSubscriptionAvailable", 1) == 1, properties

    def subscribe(self, topic, qos):
        self.mqtt.subscribe(topic, qos)
        assert self.events.get(timeout=LIMIT) == [qos]

    def publish(self, topic, payload):
        self.mqtt.publish(topic, payload, 1).wait_for_publish(timeout=LIMIT)


inbox = queue.Queue()
publisher = Client("publisher", queue.Queue())
one, two = Client("one", inbox), Client("two", inbox)
one.subscribe(SHARED, 1)
two.subscribe(SHARED, 1)
sent = [str(number) for number in range(100)]
for payload in sent:
    publisher.publish("jobs/a", payload)
got = [inbox.get(timeout=LIMIT) for _ in sent]
assert sorted(got, key=lambda it: int(it[1])) == sorted(set(got), key=lambda it: int(it[1])), got
assert sorted(int(payload) for _, payload in got) == list(range(100)), got
assert {name for name, _ in got} == {"one", "two"}, "one member got everything"
for client in (one, two):
    client.mqtt.disconnect()
    client.mqtt.loop_stop()

# One takes messages and acknowledges none; it goes, and the other gets them.
unanswered, rest = queue.Queue(), queue.Queue()
holder = Client("holder", unanswered, manual=True)
holder.subscribe(SHARED, 1)
for payload in ("a", "b"):
    publisher.publish("jobs/a", payload)
assert [unanswered.get(timeout=LIMIT)[1] for _ in range(2)] == ["a", "b"]
heir = Client("heir", rest)
heir.subscribe(SHARED, 1)
holder.mqtt.disconnect()
assert sorted(rest.get(timeout=LIMIT)[1] for _ in range(2)) == ["a", "b"]
assert inbox.empty() and rest.empty()
for client in (heir, publisher):
    client.mqtt.disconnect()
