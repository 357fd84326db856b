"""paho-mqtt with JSON Web Tokens (HS256, the secret is the second argument) as passwords, against the broker
on the given port: right ones, expired ones, ones for others; one that expires while it is connected."""

import base64
import hashlib
import hmac
import json
import queue
import sys
import time

import paho.mqtt.client as mqtt

HOST, PORT, SECRET = "127.0.0.1", int(sys.argv[1]), sys.argv[2].encode()
LIMIT = 30
# The CONNACK's codes: right, and refused in MQTT 5 and 3.1.1 (paho names the latter in MQTT 5's numbers).
RIGHT, BAD_LOGIN = 0, 0x86


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(algorithm="HS256", secret=SECRET, **claims):
    claims = {"sub": "boiler-7", "aud": "edge-01", "exp": time.time() + 60, "groups": ["sensors"]} | claims
    header = {"alg": algorithm, "typ": "JWT"}
    signed = ".".join(part(json.dumps(data).encode()) for data in (header, claims))
    if algorithm == "none":
        return signed + "."
    return f"{signed}.{part(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


class Client:
    """One connection; what happens to it waits in a queue."""

    def __init__(self, password, protocol=mqtt.MQTTv5):
        self.events = queue.Queue()
        options = {} if protocol == mqtt.MQTTv5 else {"clean_session": True}
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol, reconnect_on_failure=False, **options)
        self.mqtt.username_pw_set("unused", password)
        self.mqtt.on_connect = lambda *rest: self.events.put(("connected", rest[3].value))
        self.mqtt.on_disconnect = lambda *rest: self.events.put(("disconnected", rest[3].value))
        self.mqtt.on_publish = lambda *rest: self.events.put(("published", rest[3].value))
        self.mqtt.connect(HOST, PORT, keepalive=30)
        self.mqtt.loop_start()

    def expect(self, name, value):
        found = self.events.get(timeout=LIMIT)
        assert found == (name, value), (found, (name, value))

    def publish(self, topic, code):
        self.mqtt.publish(topic, "1", 1)
        self.expect("published", code)

    def stop(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


for protocol in (mqtt.MQTTv5, mqtt.MQTTv311):
    client = Client(token(), protocol)
    client.expect("connected", RIGHT)
    client.publish("plant/boiler-7/t", 0)
    client.stop()

client = Client(token(aud=["edge-02", "edge-01"], groups="sensors"))
client.expect("connected", RIGHT)
client.publish("plant/boiler-7/t", 0)
client.publish("plant/boiler-8/t", 0x87)
client.stop()

WRONG = [
    token(exp=time.time() - 1),
    token(algorithm="none"),
    token(aud="edge-02"),
    token(secret=b"another secret of more than 32 bytes"),
]
for wrong in WRONG:
    client = Client(wrong)
    client.expect("connected", BAD_LOGIN)
    client.stop()

client = Client(token(exp=time.time() + 2))
client.expect("connected", RIGHT)
# paho passes over the reason of a DISCONNECT without properties.
client.expect("disconnected", 0)
client.stop()
