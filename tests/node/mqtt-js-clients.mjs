// MQTT.js against the broker at the given URL, with TLS where the file of a root follows: publish and subscribe at QoS 0 to 2, retained
// messages, wills, in both versions of the protocol.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connectAsync } from "mqtt";

const [, , url, root] = process.argv;
const ca = root && readFileSync(root);
const limit = 30_000;

// A connected client whose messages wait in a queue.
class Client {
  static async connect(protocolVersion, clientId, will) {
    const self = new Client();
    self.inbox = [];
    self.mqtt = await connectAsync(url, {
      ca,
      protocolVersion,
      clientId,
      clean: true,
      reconnectPeriod: 0,
      connectTimeout: limit,
      will: will && { topic: will, payload: Buffer.from("gone"), qos: 1, retain: false },
    });
    self.mqtt.on("message", (topic, payload, packet) => {
      self.inbox.push([topic, payload.toString(), packet.qos, packet.retain]);
      self.wake?.();
    });
    return self;
  }

  async subscribe(topic, qos) {
    const [granted] = await this.mqtt.subscribeAsync(topic, { qos });
    assert.equal(granted.qos, qos);
  }

  publish(topic, payload, qos, retain = false) {
    return this.mqtt.publishAsync(topic, payload, { qos, retain });
  }

  async expect(topic, payload, qos, retain = false) {
    if (this.inbox.length === 0) {
      await new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no ${topic} ${payload}`)), limit);
        this.wake = () => (clearTimeout(timer), resolve());
      });
      this.wake = undefined;
    }
    assert.deepEqual(this.inbox.shift(), [topic, payload, qos, retain]);
  }

  // Nothing but a mark that `other` sends now.
  async expectNothingMore(other) {
    await other.publish("mark", "end", 1);
    await this.expect("mark", "end", 1);
    assert.deepEqual(this.inbox, []);
  }

  close() {
    return this.mqtt.endAsync();
  }

  // Ends the connection without DISCONNECT.
  die() {
    this.mqtt.stream.destroy();
  }
}

async function exchange(version, other) {
  const tag = `js/${version}-${other}`;
  const publisher = await Client.connect(version, `${tag}-publisher`);
  for (const published of [0, 1, 2]) {
    for (const subscribed of [0, 1, 2]) {
      const topic = `${tag}/${published}/${subscribed}`;
      const subscriber = await Client.connect(other, `${topic}-subscriber`);
      await subscriber.subscribe(topic, subscribed);
      await subscriber.subscribe("mark", 1);
      const numbers = Array.from({ length: 20 }, (_, number) => String(number));
      await Promise.all(numbers.map((number) => publisher.publish(topic, number, published)));
      for (const number of numbers) {
        // The lower of the two [MQTT-3.8.4-8].
        await subscriber.expect(topic, number, Math.min(published, subscribed));
      }
      await subscriber.expectNothingMore(publisher);
      await subscriber.close();
    }
  }
  await publisher.close();
}

async function retained(version) {
  const topic = `js/retained/${version}`;
  const publisher = await Client.connect(version, `${topic}-publisher`);
  await publisher.publish(topic, "first", 1, true);
  await publisher.publish(topic, "second", 1, true);
  const early = await Client.connect(version, `${topic}-early`);
  await early.subscribe(topic, 2);
  await early.expect(topic, "second", 1, true);
  await publisher.publish(topic, "", 1, true);
  await early.expect(topic, "", 1, false);
  const late = await Client.connect(version, `${topic}-late`);
  await late.subscribe(topic, 1);
  await late.subscribe("mark", 1);
  await late.expectNothingMore(publisher);
  await Promise.all([publisher, early, late].map((client) => client.close()));
}

async function wills(version) {
  const topic = `js/will/${version}`;
  const watcher = await Client.connect(version, `${topic}-watcher`);
  await watcher.subscribe(`${topic}/#`, 2);
  await watcher.subscribe("mark", 1);
  const polite = await Client.connect(version, `${topic}-polite`, `${topic}/polite`);
  await polite.close();
  const mortal = await Client.connect(version, `${topic}-mortal`, `${topic}/mortal`);
  mortal.die();
  await watcher.expect(`${topic}/mortal`, "gone", 1);
  const publisher = await Client.connect(version, `${topic}-publisher`);
  await watcher.expectNothingMore(publisher);
  await Promise.all([publisher, watcher].map((client) => client.close()));
}

for (const [version, other] of [[4, 4], [5, 5], [4, 5], [5, 4]]) {
  await exchange(version, other);
}
for (const version of [4, 5]) {
  await retained(version);
  await wills(version);
}
