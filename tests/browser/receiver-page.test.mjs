// The receiver's page in a browser, against the running receiver at RECEIVER_URL.
//
// CHROMIUM names the browser (default: Debian's). The events are this test's own: it tells its
// devices apart by a random name, so it can run against a receiver that has seen others. With
// SCREENSHOTS set to a directory it leaves pictures of the page there.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

const receiver = process.env.RECEIVER_URL?.replace(/\/$/, "");
assert.ok(receiver, "RECEIVER_URL says where the receiver is, such as http://127.0.0.1:8080");
const run = randomUUID().slice(0, 8);
const gateway = `gateway-${run}`;
const epoch = randomUUID().replaceAll("-", "").slice(0, 16);
let lsn = 0;

let browser;
let page;
const complaints = [];

/** The next event of `device`, as the gateway would send it. */
function event(device, data, more = {}) {
  lsn += 1;
  return {
    specversion: "1.0",
    id: `${epoch}-0-${lsn}`,
    source: `/gateway/${gateway}/device/${encodeURIComponent(device)}`,
    type: "tidegate.event",
    subject: `plant/${device}`,
    time: new Date().toISOString(),
    datacontenttype: "application/json",
    data,
    ...more,
  };
}

async function post(...events) {
  const answer = await fetch(`${receiver}/events`, {
    method: "POST",
    headers: { "content-type": "application/cloudevents-batch+json" },
    body: JSON.stringify(events),
  });
  assert.equal(answer.status, 200, await answer.clone().text());
  return answer.json();
}

async function summary() {
  return (await fetch(`${receiver}/api/summary`)).json();
}

const shown = (id) => page.locator(`#${id}`).innerText().then((text) => Number(text.replaceAll(",", "")));

/** Waits until the page shows what the receiver counts. */
async function agrees(id, name) {
  const { [name]: expected } = await summary();
  await page.waitForFunction(
    ([element, value]) => document.getElementById(element).textContent === value,
    [id, expected.toLocaleString("en")],
    { timeout: 30_000 },
  );
  return expected;
}

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
  page = await browser.newPage({ viewport: { width: 1280, height: 860 } });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(message.text());
  });
  await page.goto(receiver);
  await page.locator('#live[data-state="live"]').waitFor();
});

after(async () => browser?.close());

test("the totals are those of the receiver", async () => {
  await post(event(`boiler-${run}`, { t: 71.5 }), event(`boiler-${run}`, { t: 72.25 }));
  await agrees("total", "events");
  await agrees("gaps", "gaps");
  await agrees("duplicates", "duplicates");
});

test("a device has a row, and it changes without a reload", async () => {
  const row = page.locator(`[data-device="boiler-${run}"]`);
  await row.locator("td.value", { hasText: "72.25" }).waitFor();
  await page.evaluate(() => { window.notReloaded = true; });
  await post(event(`boiler-${run}`, { t: 93 }));
  await row.locator("td.value", { hasText: "93" }).waitFor();
  await row.locator("td.count", { hasText: "3" }).waitFor();
  assert.equal(await page.evaluate(() => window.notReloaded), true);
});

test("an event that comes again is counted and not stored", async () => {
  const twice = event(`boiler-${run}`, { t: 94 });
  const earlier = await summary();
  assert.deepEqual(await post(twice), { stored: 1, duplicates: 0 });
  assert.deepEqual(await post(twice), { stored: 0, duplicates: 1 });
  assert.equal(await agrees("total", "events"), earlier.events + 1);
  assert.equal(await agrees("duplicates", "duplicates"), earlier.duplicates + 1);
});

test("a gap shows, and closes when the event arrives after all", async () => {
  const earlier = await shown("gaps");
  const late = event(`pump-${run}`, 1);
  await post(event(`pump-${run}`, 2));
  await page.waitForFunction((n) => document.getElementById("gaps").textContent === String(n), earlier + 1);
  await post(late);
  await page.waitForFunction((n) => document.getElementById("gaps").textContent === String(n), earlier);
});

test("an alert is marked while it is raised", async () => {
  const alert = (state, value) => event("", undefined, {
    source: `/gateway/${gateway}/alerts/overheating`,
    type: `tidegate.alert.${state}`,
    subject: `alerts/overheating/boiler-${run}`,
    data: { alert: "overheating", device: `boiler-${run}`, state, severity: "critical", value },
  });
  await post(alert("raised", 94.5));
  const item = (state) => page.locator(`.alert[data-state="${state}"][data-alert-device="boiler-${run}"]`);
  await item("raised").waitFor();
  assert.match(await item("raised").innerText(), /overheating[\s\S]*critical[\s\S]*94\.5/);
  await picture("raised");
  await post(alert("cleared", 84));
  await item("cleared").waitFor();
  assert.equal(await item("raised").count(), 0);
});

test("what an event says is text, whatever it says", async () => {
  const hostile = `<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>${run}`;
  await post(
    event(hostile, hostile, { subject: hostile }),
    event(hostile, undefined, {
      source: `/gateway/${gateway}/alerts/x`,
      type: "tidegate.alert.raised",
      subject: hostile,
      data: { alert: hostile, device: hostile, severity: hostile, value: 1 },
    }),
  );
  const row = page.locator("#device-table tr", { hasText: "onerror" }).filter({ hasText: run });
  await row.first().waitFor();
  assert.equal(await row.first().locator("button").innerText(), hostile);
  await page.locator(".alert", { hasText: hostile }).waitFor();
  await page.locator(".event", { hasText: hostile }).first().waitFor();
  await row.first().click();
  await page.locator("tr.details code", { hasText: "onerror" }).first().waitFor();
  assert.equal(await page.locator("main img, main script").count(), 0);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
});

test("markup that came in by another way would not run", async () => {
  const ran = await page.evaluate(async () => {
    const element = document.createElement("script");
    element.textContent = "window.smuggled = true";
    document.body.append(element);
    await new Promise((resolve) => setTimeout(resolve, 50));
    element.remove();
    return window.smuggled === true;
  });
  assert.equal(ran, false, "the content security policy lets a script in");
  // The browser complains about that one; nothing else may be among its complaints.
  const others = complaints.filter((text) => !/Content Security Policy/i.test(text));
  assert.deepEqual(others, []);
});

test("devices can be searched for", async () => {
  await page.fill("#filter", `pump-${run}`);
  await page.locator(`[data-device="boiler-${run}"]`).waitFor({ state: "detached" });
  await page.locator(`[data-device="pump-${run}"]`).waitFor();
  await page.fill("#filter", "");
  await page.locator(`[data-device="boiler-${run}"]`).waitFor();
});

test("it fits a telephone", async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(wider <= 0, `the page is ${wider} pixels wider than the screen`);
  await picture("telephone");
});

async function picture(name) {
  if (!process.env.SCREENSHOTS) return;
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}-${colorScheme}.png`) });
  }
  await page.emulateMedia({ colorScheme: null });
}
