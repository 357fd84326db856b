"""paho-mqtt against the broker on the given port, over "tcp" or "websockets" where that is given, with TLS
where the file of a root follows: publish and subscribe at QoS 0 to 2, retained
messages, wills, in both versions of the protocol."""

import queue
import sys

import paho.mqtt.client as mqtt

HOST, PORT = "127.0.0.1", int(sys.argv[1])
TRANSPORT = sys.argv[2] if len(sys.argv) > 2 else "tcp"
ROOT = sys.argv[3] if len(sys.argv) > 3 else None
LIMIT = 30


class Client:
    """A connected client whose messages wait in a queue."""

    def __init__(self, protocol, name, will=None):
        self.inbox = queue.Queue()
        self.events = queue.Queue()
        options = {} if protocol == mqtt.MQTTv5 else {"clean_session": True}
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, transport=TRANSPORT, **options
        )
        if ROOT:
            self.mqtt.tls_set(ca_certs=ROOT)
        if will:
            self.mqtt.will_set(will, "gone", qos=1)
        self.mqtt.on_message = lambda client, data, message: self.inbox.put(message)
        self.mqtt.on_connect = lambda *rest: self.events.put(("connected", rest[3].value))
        self.mqtt.on_subscribe = lambda *rest: self.events.put(
            ("subscribed", [code.value for code in rest[3]])
        )
        self.mqtt.connect(HOST, PORT, keepalive=30)
        self.mqtt.loop_start()
        self.expect_event("connected", 0)

    def expect_event(self, name, value):
        found = self.events.get(timeout=LIMIT)
        assert found == (name, value), found

    def subscribe(self, topic, qos):
        self.mqtt.subscribe(topic, qos)
        self.expect_event("subscribed", [qos])

    def publish(self, topic, payload, qos, retain=False):
        self.mqtt.publish(topic, payload, qos, retain).wait_for_publish(timeout=LIMIT)

    def expect(self, topic, payload, qos, retain=False):
        message = self.inbox.get(timeout=LIMIT)
        found = (message.topic, message.payload.decode(), message.qos, message.retain)
        assert found == (topic, payload, qos, retain), found

    def expect_nothing_more(self, other):
        """Nothing but a mark that `other` sends now."""
        other.publish("mark", "end", 1)
        self.expect("mark", "end", 1)
        assert self.inbox.empty()

    def close(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()

    def die(self):
        """Closes the socket without DISCONNECT."""
        self.mqtt.loop_stop()
        self.mqtt.socket().close()


def exchange(protocol, other):
    tag = f"paho/{int(protocol)}-{int(other)}"
    publisher = Client(protocol, f"{tag}-publisher")
    for published in (0, 1, 2):
        for subscribed in (0, 1, 2):
            topic = f"{tag}/{published}/{subscribed}"
            subscriber = Client(other, f"{topic}-subscriber")
            subscriber.subscribe(topic, subscribed)
            subscriber.subscribe("mark", 1)
            for number in range(20):
                publisher.publish(topic, str(number), published)
            for number in range(20):
                # The lower of the two [MQTT-3.8.4-8].
                subscriber.expect(topic, str(number), min(published, subscribed))
            subscriber.expect_nothing_more(publisher)
            subscriber.close()
    publisher.close()


def retained(protocol):
    topic = f"paho/retained/{int(protocol)}"
    publisher = Client(protocol, f"{topic}-publisher")
    publisher.publish(topic, "first", 1, retain=True)
    publisher.publish(topic, "second", 1, retain=True)
    early = Client(protocol, f"{topic}-early")
    early.subscribe(topic, 2)
    early.expect(topic, "second", 1, retain=True)
    publisher.publish(topic, "third", 1, retain=True)
    early.expect(topic, "third", 1, retain=False)
    publisher.publish(topic, "", 1, retain=True)
    early.expect(topic, "", 1, retain=False)
    late = Client(protocol, f"{topic}-late")
    late.subscribe(topic, 1)
    late.subscribe("mark", 1)
    late.expect_nothing_more(publisher)
    for client in (publisher, early, late):
        client.close()


def wills(protocol):
    topic = f"paho/will/{int(protocol)}"
    watcher = Client(protocol, f"{topic}-watcher")
    watcher.subscribe(topic + "/#", 2)
    watcher.subscribe("mark", 1)
    polite = Client(protocol, f"{topic}-polite", will=topic + "/polite")
    polite.close()
    mortal = Client(protocol, f"{topic}-mortal", will=topic + "/mortal")
    mortal.die()
    watcher.expect(topic + "/mortal", "gone", 1)
    publisher = Client(protocol, f"{topic}-publisher")
    watcher.expect_nothing_more(publisher)
    publisher.close()
    watcher.close()


def taken_over(protocol):
    """A second client of the same name ends the first one [MQTT-3.1.4-3]."""
    first = Client(protocol, "paho-twin")
    ended = queue.Queue()
    first.mqtt.on_disconnect = lambda *rest: ended.put(rest)
    first.mqtt.reconnect_delay_set(min_delay=60)
    second = Client(protocol, "paho-twin")
    ended.get(timeout=LIMIT)
    second.publish("paho/twin", "still here", 1)
    second.close()
    first.mqtt.loop_stop()


V4, V5 = mqtt.MQTTv311, mqtt.MQTTv5
for pair in ((V4, V4), (V5, V5), (V4, V5), (V5, V4)):
    exchange(*pair)
for version in (V4, V5):
    retained(version)
    wills(version)
    taken_over(version)
