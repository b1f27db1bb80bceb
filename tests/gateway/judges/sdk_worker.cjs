// A worker on @azure/service-bus, unmodified: does what it is told by its name, and says as JSON lines how it went.
// Scenarios that give a function have it called once the whole process was blocked for longer than their locks last.
// node sdk_worker.cjs '{"connection": …, "wrong": …, "narrow": …, "blocked_ms": …, "names": {…}}'
"use strict";
const assert = require("node:assert/strict");
const { ServiceBusClient, delay } = require("@azure/service-bus");

const told = JSON.parse(process.argv[2]);
const names = told.names;
const once = { retryOptions: { maxRetries: 0, timeoutInMs: 20000 } };
const clients = [];

function connect(connection, options = once) {
  const client = new ServiceBusClient(connection, options);
  clients.push(client);
  return client;
}

function block(ms) {
  // The whole thread, and with it the event loop.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

async function fill(queue, ...messages) {
  // Not through the gateway: what is judged is receiving, unless a scenario says otherwise.
  const sender = connect(told.upstream).createSender(queue);
  await sender.sendMessages(messages);
  await sender.close();
}

async function receive(receiver, number) {
  const messages = [];
  while (messages.length < number) {
    const more = await receiver.receiveMessages(number - messages.length, { maxWaitTimeInMs: 10000 });
    assert.notEqual(more.length, 0, `only ${messages.length} of ${number}`);
    messages.push(...more);
  }
  return messages;
}

async function codeOf(work) {
  try {
    await work();
  } catch (error) {
    return error.code;
  }
  return "nothing was thrown";
}

const NO_RENEWAL = { maxAutoLockRenewalDurationInMs: 0 };

const scenarios = {
  async messages_are_sent_and_received() {
    const queue = names.next();
    const client = connect(told.connection);
    const sender = client.createSender(queue);
    await sender.sendMessages({ body: "one", messageId: "1", subject: "s", applicationProperties: { n: 1, b: true } });
    await sender.sendMessages([{ body: { i: 2 } }, { body: "x".repeat(300000) }]);
    const batch = await sender.createMessageBatch();
    for (const body of ["a", "b", "c"]) assert.ok(batch.tryAddMessage({ body }));
    await sender.sendMessages(batch);
    const receiver = client.createReceiver(queue, NO_RENEWAL);
    const messages = await receive(receiver, 6);
    assert.deepEqual(messages.map((message) => message.body), ["one", { i: 2 }, "x".repeat(300000), "a", "b", "c"]);
    assert.deepEqual([messages[0].subject, messages[0].applicationProperties], ["s", { n: 1, b: true }]);
    for (const message of messages) await receiver.completeMessage(message);
    assert.equal((await receiver.peekMessages(10)).length, 0);
  },

  async a_session_is_accepted_by_name_and_keeps_its_state() {
    const queue = names.next("sessions");
    const client = connect(told.connection);
    let session = await client.acceptSession(queue, "s", NO_RENEWAL);
    assert.equal(session.sessionId, "s");
    assert.equal(await codeOf(() => client.acceptSession(queue, "s")), "SessionCannotBeLocked");
    assert.ok((await session.renewSessionLock()) > Date.now());
    assert.ok((await session.getSessionState()) == null);
    await session.setSessionState(Buffer.from("kept"));
    await session.close();
    session = await client.acceptSession(queue, "s", NO_RENEWAL);
    assert.equal((await session.getSessionState()).toString(), "kept");
    await session.close();
  },

  async messages_of_a_session_are_settled_in_every_way() {
    const queue = names.next("sessions");
    await fill(queue, ...["complete", "abandon", "defer", "dead-letter"].map((body) => ({ body, sessionId: "s" })));
    const client = connect(told.connection);
    const session = await client.acceptNextSession(queue, NO_RENEWAL);
    assert.equal(session.sessionId, "s");
    const [complete, abandon, defer, dead] = await receive(session, 4);
    await session.completeMessage(complete);
    await session.abandonMessage(abandon);
    await session.deferMessage(defer);
    await session.deadLetterMessage(dead, { deadLetterReason: "reason", deadLetterErrorDescription: "description" });
    const [again] = await receive(session, 1);
    assert.deepEqual([again.body, again.deliveryCount], ["abandon", 1]);
    await session.completeMessage(again);
    const [deferred] = await session.receiveDeferredMessages(defer.sequenceNumber);
    await session.completeMessage(deferred);
    const receiver = client.createReceiver(queue, { subQueueType: "deadLetter" });
    const [letter] = await receive(receiver, 1);
    assert.deepEqual([letter.body, letter.deadLetterReason], ["dead-letter", "reason"]);
    await receiver.completeMessage(letter);
  },

  async a_session_outlives_a_loop_that_is_blocked() {
    const queue = names.next("sessions");
    await fill(queue, { body: "m", sessionId: "s" });
    const session = await connect(told.connection).acceptSession(queue, "s", NO_RENEWAL);
    const [message] = await receive(session, 1);
    return async () => {
      await session.completeMessage(message);
      await session.setSessionState("done");
    };
  },

  async a_hundred_messages_outlive_a_loop_that_is_blocked() {
    const queue = names.next();
    await fill(queue, ...Array.from({ length: 100 }, (_, number) => ({ body: number })));
    const receiver = connect(told.connection).createReceiver(queue, NO_RENEWAL);
    const messages = await receive(receiver, 100);
    return async () => {
      await Promise.all(messages.map((message) => receiver.completeMessage(message)));
      assert.equal((await receiver.peekMessages(10)).length, 0);
    };
  },

  async a_lock_is_renewed_by_the_worker_too() {
    const queue = names.next();
    await fill(queue, { body: "m" });
    const receiver = connect(told.connection).createReceiver(queue, { maxAutoLockRenewalDurationInMs: 60000 });
    const [message] = await receive(receiver, 1);
    assert.ok((await receiver.renewMessageLock(message)) > Date.now());
    await delay(told.blocked_ms);
    await receiver.completeMessage(message);
  },

  async a_processor_gets_its_messages() {
    const queue = names.next("sessions");
    await fill(queue, ...[1, 2, 3].map((body) => ({ body, sessionId: "s" })));
    const session = await connect(told.connection).acceptNextSession(queue);
    const got = [];
    await new Promise((resolve, reject) => {
      session.subscribe({
        async processMessage(message) {
          got.push(message.body);
          if (got.length === 3) resolve();
        },
        async processError({ error }) {
          reject(error);
        },
      });
    });
    assert.deepEqual(got, [1, 2, 3]);
    await session.close();
  },

  async messages_are_scheduled_peeked_and_deleted_as_they_are_received() {
    const queue = names.next();
    const client = connect(told.connection);
    const sender = client.createSender(queue);
    const later = new Date(Date.now() + 3600000);
    const numbers = await sender.scheduleMessages([{ body: "a" }, { body: "b" }], later);
    await sender.cancelScheduledMessages(numbers[0]);
    await sender.scheduleMessages({ body: "soon" }, new Date(Date.now() + 300));
    const receiver = client.createReceiver(queue, { receiveMode: "receiveAndDelete" });
    assert.deepEqual((await receive(receiver, 1)).map((message) => message.body), ["soon"]);
    assert.deepEqual((await receiver.peekMessages(10)).map((message) => message.body), ["b"]);
  },

  async a_wrong_key_is_an_authentication_error() {
    const began = Date.now();
    const receiver = connect(told.wrong).createReceiver(names.next());
    const code = await codeOf(() => receiver.receiveMessages(1, { maxWaitTimeInMs: 1000 }));
    assert.ok(["UnauthorizedAccess", "Unauthorized"].includes(code), code);
    assert.ok(Date.now() - began < 10000);
  },

  async an_entity_that_is_not_allowed_is_an_authorization_error() {
    const client = connect(told.narrow);
    const sender = client.createSender(told.allowed);
    await sender.sendMessages({ body: "m" });
    const other = client.createReceiver(names.next());
    const code = await codeOf(() => other.receiveMessages(1, { maxWaitTimeInMs: 1000 }));
    assert.ok(["UnauthorizedAccess", "Unauthorized"].includes(code), code);
  },
};

names.next = (kind = "plain") => names[kind].shift();

async function main() {
  const tell = (name, error) => console.log(JSON.stringify({ name, error: error ? String(error.stack || error) : null }));
  const patient = (work) =>
    Promise.race([
      work,
      new Promise((_, reject) => setTimeout(() => reject(new Error("not within 40 s")), 40000).unref()),
    ]);
  const blocked = [];
  for (const name of told.scenarios || Object.keys(scenarios)) {
    try {
      const after = await patient(scenarios[name]());
      if (after) blocked.push([name, after]);
      else tell(name, null);
    } catch (error) {
      tell(name, error);
    }
  }
  if (blocked.length) block(told.blocked_ms);
  for (const [name, after] of blocked) {
    try {
      await patient(after());
      tell(name, null);
    } catch (error) {
      tell(name, error);
    }
  }
  process.exit(0);
}

process.on("uncaughtException", (error) => {
  console.log(JSON.stringify({ name: "uncaught", error: String(error.stack || error) }));
  process.exit(1);
});
main();
