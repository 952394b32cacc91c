// Uses a deployed app and named objects through the JavaScript SDK: `node from_javascript.cjs APP`. Ends each check with a
// line that the test suite reads, as `checks.py` does.
const assert = require("node:assert");
const { ModalClient } = require("modal");

const app = process.argv[2];
const modal = new ModalClient();

const checks = {
  async a_function_is_called() {
    const greet = await modal.functions.fromName(app, "greet");
    assert.equal(await greet.remote(["you"]), "hello you");
    assert.equal(await greet.remote(["you"], { loud: true }), "HELLO YOU");
  },

  async an_exception_comes_back_with_its_text() {
    const broken = await modal.functions.fromName(app, "broken");
    await assert.rejects(broken.remote([]), /as it should/);
  },

  async a_method_is_called_also_with_parameters() {
    const Counter = await modal.cls.fromName(app, "Counter");
    assert.equal(await (await Counter.instance()).method("add").remote([2]), 3);
    assert.equal(await (await Counter.instance({ start: 40 })).method("add").remote([2]), 42);
  },

  async a_spawned_call_is_waited_for() {
    const greet = await modal.functions.fromName(app, "greet");
    const call = await greet.spawn(["later"]);
    const found = await modal.functionCalls.fromId(call.functionCallId);
    assert.equal(await found.get({ timeoutMs: 60000 }), "hello later");
  },

  async large_inputs_and_results_travel() {
    const twice = await modal.functions.fromName(app, "twice");
    const data = new Uint8Array(5 << 20).fill(7);
    const back = await twice.remote([data]);
    assert.equal(back.length, 10 << 20);
    assert.ok(back.every((byte) => byte === 7));
  },

  async a_queue_gives_back_what_was_put() {
    const queue = await modal.queues.fromName(`${app}-queue`, { createIfMissing: true });
    await queue.put("one");
    await queue.putMany([2, "three"]);
    assert.equal(await queue.len(), 3);
    assert.deepEqual(await queue.getMany(3), ["one", 2, "three"]);
    await modal.queues.delete(`${app}-queue`);
  },

  async a_volume_is_made_and_found() {
    const made = await modal.volumes.fromName(`${app}-volume`, { createIfMissing: true });
    const found = await modal.volumes.fromName(`${app}-volume`);
    assert.equal(found.volumeId, made.volumeId);
    await modal.volumes.delete(`${app}-volume`);
    await assert.rejects(modal.volumes.fromName(`${app}-volume`), /not found/);
  },

  async a_secret_is_made_and_one_that_is_not_there_is_named() {
    const made = await modal.secrets.fromObject({ KEY: "value" });
    const Counter = (await modal.cls.fromName(app, "Counter")).withOptions({ secrets: [made] });
    assert.equal(await (await Counter.instance()).method("variable").remote(["KEY"]), "value");
    await assert.rejects(modal.secrets.fromName(`${app}-none`), /Secret '.*-none' not found/);
  },

  async a_proxy_is_not_found() {
    await assert.rejects(modal.proxies.fromName("static-address"), /Proxy 'static-address' not found/);
  },
};

async function main() {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      console.log(`CHECK PASS ${name}`);
    } catch (error) {
      console.log(error.stack);
      console.log(`CHECK FAIL ${name}`);
    }
  }
  modal.close();
}

main();
