// A page in a browser that speaks MQTT over WebSocket, with MQTT.js as browsers load it, against the
// gateways at WS_URL and WSS_URL.
//
// CHROMIUM names the browser (default: Debian's).

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

const { WS_URL, WSS_URL } = process.env;
assert.ok(WS_URL && WSS_URL, "WS_URL and WSS_URL say where the gateways are, such as ws://127.0.0.1:8083");
const library = new URL("../node/node_modules/mqtt/dist/mqtt.min.js", import.meta.url);

let server;
let browser;

before(async () => {
  const script = await readFile(library);
  server = createServer((request, response) => {
    const page = request.url === "/";
    response.setHeader("content-type", page ? "text/html" : "text/javascript");
    response.end(page ? '<!doctype html><script src="/mqtt.js"></script>' : script);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
      // Somebody else's name that leads here, as its owner can have it.
      "--host-resolver-rules=MAP scada.example 127.0.0.1",
    ],
  });
});

after(async () => {
  await browser?.close();
  server?.close();
});

/** Publishes and receives from a page of `host`; answers with what came, or why nothing did. */
async function talk(url, host) {
  // The gateway's certificate is made for the test: which root signed it is tested elsewhere.
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  await page.goto(`http://${host}:${server.address().port}/`);
  const heard = await page.evaluate(
    (url) =>
      new Promise((resolve) => {
        const timer = setTimeout(() => resolve("nothing"), 30_000);
        const client = window.mqtt.connect(url, { reconnectPeriod: 0, protocolVersion: 5 });
        const end = (heard) => (clearTimeout(timer), client.end(true), resolve(heard));
        client.on("connect", async () => {
          await client.subscribeAsync("browser/#", { qos: 2 });
          await client.publishAsync("browser/a", "x".repeat(100_000) + "ü", { qos: 2 });
        });
        client.on("message", (topic, payload) => end(`${topic} ${payload.length}`));
        client.on("error", (error) => end(`error ${error.message}`));
        client.on("close", () => end("closed"));
      }),
    url,
  );
  await context.close();
  return heard;
}

test("a page of the listener's own address speaks MQTT", async () => {
  assert.equal(await talk(WS_URL, "127.0.0.1"), "browser/a 100002");
});

test("and over TLS", async () => {
  assert.equal(await talk(WSS_URL, "127.0.0.1"), "browser/a 100002");
});

test("a page of somebody else does not", async () => {
  assert.match(await talk(WS_URL, "scada.example"), /^(closed|error)/);
});
