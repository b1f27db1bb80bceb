// A Service Bus that shares no code with renewer: on rhea, as small as its judging allows, and strict.
// node rhea_broker.cjs '{"key_name": …, "key": …, "lock_s": …, "max_frame_size": …, "channel_max": …, "handle_max": …}'
// Queues come into being when they are named; those that begin with "session" have sessions. What it finds wrong it
// says on stderr, a line each. `{"port": …}` is its first line on stdout; "state" on stdin asks for its counters.
"use strict";
const crypto = require("node:crypto");
const readline = require("node:readline");
const rhea = require("rhea");

const { types } = rhea;
const options = { lock_s: 5, max_frame_size: 65536, channel_max: 255, handle_max: 255, ...JSON.parse(process.argv[2]) };
const counters = { connections: 0, session_renewals: 0, message_renewals: 0, sessions_lost: 0, messages_lost: 0, tokens: 0 };
const queues = new Map();
const granted = new Map(); // connection -> paths that tokens were put for

const complain = (what) => process.stderr.write(`${what}\n`);
process.on("uncaughtException", (error) => complain(error.stack));

const path = (address) => String(address).replace(/^[a-z]+:\/\/[^/]*/, "").replace(/^\//, "");
const now = () => Date.now();
const error = (condition, description) => ({ condition, description });
const ticks = (ms) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(BigInt(ms) * 10000n + 621355968000000000n);
  return types.wrap_long(bytes);
};
// Lock tokens are GUIDs: little-endian as delivery tags, in network order elsewhere (Service Bus AMQP protocol guide).
const swapped = (tag) => Buffer.from([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map((at) => tag[at]));
const hex = (bytes) => Buffer.from(bytes).toString("hex");

function queueOf(name) {
  const key = name.toLowerCase();
  if (!queues.has(key)) {
    queues.set(key, { name, sessions: new Map(), has_sessions: key.startsWith("session"), ready: [], locked: new Map(), receivers: [] });
  }
  return queues.get(key);
}

let numbers = 0;

// Tokens ---------------------------------------------------------------------------------------------------------------

function isGenuine(token, audience) {
  const fields = new URLSearchParams(String(token).replace(/^SharedAccessSignature /, ""));
  const raw = /(?:^| |&)sr=([^&]*)/.exec(String(token));
  if (!raw || !fields.get("sig") || Number(fields.get("se")) * 1000 < now()) return false;
  const signed = crypto.createHmac("sha256", options.key).update(`${raw[1]}\n${fields.get("se")}`).digest("base64");
  const covers = path(audience).toLowerCase().startsWith(path(fields.get("sr")).toLowerCase());
  return signed === fields.get("sig") && fields.get("skn") === options.key_name && covers;
}

function isGranted(connection, name) {
  const wanted = name.toLowerCase();
  return [...(granted.get(connection) || [])].some((one) => wanted === one || wanted.startsWith(`${one}/`));
}

// Locks ----------------------------------------------------------------------------------------------------------------

function lockSession(session) {
  clearTimeout(session.timer);
  session.until = now() + options.lock_s * 1000;
  session.timer = setTimeout(() => {
    counters.sessions_lost += 1;
    const { link } = session;
    session.link = null;
    link.close(error("com.microsoft:session-lock-lost", "The session lock has expired."));
  }, options.lock_s * 1000);
}

function freeSession(session) {
  clearTimeout(session.timer);
  session.link = null;
}

function lockMessage(queue, lock) {
  clearTimeout(lock.timer);
  lock.until = now() + options.lock_s * 1000;
  lock.timer = setTimeout(() => {
    counters.messages_lost += 1;
    unlock(queue, lock);
  }, options.lock_s * 1000);
}

function unlock(queue, lock) {
  clearTimeout(lock.timer);
  if (queue.locked.delete(lock.token)) {
    lock.entry.deliveries += 1;
    queue.ready.unshift(lock.entry);
    pump(queue);
  }
}

// Messages -------------------------------------------------------------------------------------------------------------

function pump(queue) {
  for (const receiver of queue.receivers) {
    while (receiver.is_open() && receiver.sendable()) {
      const at = queue.ready.findIndex((entry) => !queue.has_sessions || entry.session_id === receiver.held.id);
      if (at < 0) break;
      const [entry] = queue.ready.splice(at, 1);
      const tag = crypto.randomBytes(16);
      const annotations = { "x-opt-sequence-number": types.wrap_long(entry.number) };
      const message = { ...entry.message, delivery_count: entry.deliveries, message_annotations: annotations };
      if (receiver.snd_settle_mode === 1) {
        receiver.send(message, tag);
        continue;
      }
      const lock = { entry, token: hex(swapped(tag)), session: receiver.held };
      queue.locked.set(lock.token, lock);
      if (!queue.has_sessions) lockMessage(queue, lock);
      annotations["x-opt-locked-until"] = types.wrap_timestamp(lock.until || receiver.held.until);
      receiver.send(message, tag).lock = lock;
    }
  }
}

function settle(context, outcome) {
  const { delivery, sender } = context;
  const { queue } = sender;
  const { lock } = delivery;
  if (!lock || queue.locked.get(lock.token) !== lock || (lock.session && lock.session.link !== sender)) {
    const lost = queue.has_sessions ? "com.microsoft:session-lock-lost" : "com.microsoft:message-lock-lost";
    delivery.update(true, rhea.message.rejected(error(lost, "The lock is over.")).described());
    return;
  }
  clearTimeout(lock.timer);
  queue.locked.delete(lock.token);
  if (outcome !== "accepted" && outcome !== "rejected") {
    lock.entry.deliveries += 1;
    queue.ready.unshift(lock.entry);
  }
  delivery.update(true, rhea.message.accepted().described());
  pump(queue);
}

// Links ----------------------------------------------------------------------------------------------------------------

function refuse(link, what) {
  link.local.attach.source = null;
  link.local.attach.target = null;
  link.close(what);
}

function isRefused(context, link, address) {
  const name = path(address).replace(/\/\$management$/i, "");
  if (link.remote.attach.handle > options.handle_max) complain(`handle ${link.remote.attach.handle}`);
  if (address === "$cbs") return false;
  if (isGranted(context.connection, path(address)) || isGranted(context.connection, name)) return false;
  refuse(link, error("amqp:unauthorized-access", `No token for ${name}.`));
  return true;
}

function onSender(context) {
  const link = context.sender;
  const asked = link.remote.attach;
  const address = asked.source && asked.source.address;
  if (isRefused(context, link, address)) return;
  link.set_target({ address: asked.target && asked.target.address });
  if (address === "$cbs" || /\/\$management$/i.test(address)) {
    link.set_source({ address });
    link.session.replies = { ...link.session.replies, [address]: link };
    return;
  }
  const queue = queueOf(path(address));
  link.queue = queue;
  const filter = asked.source.filter || {};
  if (queue.has_sessions !== "com.microsoft:session-filter" in filter) {
    refuse(link, error("amqp:not-allowed", "Sessions."));
    return;
  }
  const source = { address };
  if (queue.has_sessions) {
    const wanted = filter["com.microsoft:session-filter"];
    const free = [...queue.sessions.values()].find((one) => !one.link && queue.ready.some((m) => m.session_id === one.id));
    const id = wanted === null ? free && free.id : String(wanted);
    const session = id && (queue.sessions.get(id) || { id, link: null, state: null });
    if (!session || session.link) {
      const why = session ? "com.microsoft:session-cannot-be-locked" : "com.microsoft:timeout";
      refuse(link, error(why, "It may be locked by another receiver."));
      return;
    }
    queue.sessions.set(id, session);
    session.link = link;
    link.held = session;
    lockSession(session);
    source.filter = { "com.microsoft:session-filter": id };
    link.local.attach.properties = { "com.microsoft:locked-until-utc": ticks(session.until) };
  }
  link.set_source(source);
  queue.receivers.push(link);
}

function onReceiver(context) {
  const link = context.receiver;
  const { target, source } = link.remote.attach;
  if (isRefused(context, link, target && target.address)) return;
  link.set_target({ address: target.address });
  link.set_source({ address: source && source.address });
  link.local.attach.max_message_size = 1048576;
}

function gone(link) {
  if (!link.queue) return;
  const { queue } = link;
  queue.receivers = queue.receivers.filter((one) => one !== link);
  if (link.held && link.held.link === link) freeSession(link.held);
  for (const lock of [...queue.locked.values()]) {
    if (lock.session && lock.session === link.held) unlock(queue, lock);
  }
}

function allGone(connection) {
  granted.delete(connection);
  for (const queue of queues.values()) {
    queue.receivers.filter((link) => link.connection === connection).forEach(gone);
  }
}

// Requests -------------------------------------------------------------------------------------------------------------

const tokensOf = (body) => body["lock-tokens"].map((token) => hex(token));

const operations = {
  "com.microsoft:renew-session-lock"(queue, body, link) {
    const session = queue.sessions.get(body["session-id"]);
    if (!session || !session.link || session.link !== link) return [410, "com.microsoft:session-lock-lost"];
    lockSession(session);
    counters.session_renewals += 1;
    return [200, null, { expiration: types.wrap_timestamp(session.until) }];
  },
  "com.microsoft:renew-lock"(queue, body) {
    const locks = tokensOf(body).map((token) => queue.locked.get(token));
    if (locks.some((lock) => !lock)) return [410, "com.microsoft:message-lock-lost"];
    locks.forEach((lock) => lockMessage(queue, lock));
    counters.message_renewals += locks.length;
    const expirations = locks.map((lock) => types.wrap_timestamp(lock.until).value);
    return [200, null, { expirations: types.wrap_array(expirations, 0x83) }];
  },
  "com.microsoft:get-session-state"(queue, body, link) {
    const session = queue.sessions.get(body["session-id"]);
    if (!session || session.link !== link) return [410, "com.microsoft:session-lock-lost"];
    return [200, null, { "session-state": session.state }];
  },
  "com.microsoft:set-session-state"(queue, body, link) {
    const session = queue.sessions.get(body["session-id"]);
    if (!session || session.link !== link) return [410, "com.microsoft:session-lock-lost"];
    session.state = body["session-state"];
    return [200, null, {}];
  },
  "com.microsoft:peek-message"(queue) {
    const entries = [...queue.ready, ...[...queue.locked.values()].map((lock) => lock.entry)];
    if (!entries.length) return [204, null, {}];
    return [200, null, { messages: entries.map((entry) => ({ message: rhea.message.encode(entry.message) })) }];
  },
};

function linkNamed(queue, connection, name) {
  return queue.receivers.find((link) => link.connection === connection && link.name === name) || null;
}

function onMessage(context) {
  const { message, receiver, connection } = context;
  const { address } = receiver.remote.attach.target;
  const asked = message.application_properties || {}; // A message of another format is bytes and has none.
  if (address === "$cbs") {
    const good = asked.operation === "put-token" && isGenuine(message.body, asked.name);
    if (good) {
      counters.tokens += 1;
      granted.get(connection).add(path(asked.name).replace(/\/\$management$/i, "").toLowerCase());
    }
    const status = { "status-code": types.wrap_int(good ? 202 : 401), "status-description": good ? "Accepted" : "No." };
    answer(context, address, status, undefined);
    return;
  }
  if (/\/\$management$/i.test(address)) {
    const queue = queueOf(path(address).replace(/\/\$management$/i, ""));
    const link = linkNamed(queue, connection, asked["associated-link-name"]);
    if (/renew/.test(asked.operation) && !link) complain(`${asked.operation} names no link of that connection`);
    const operation = operations[asked.operation];
    const [code, condition, body] = operation ? operation(queue, message.body, link) : [501, "amqp:not-implemented"];
    const status = { statusCode: types.wrap_int(code), statusDescription: condition || "OK" };
    if (condition) status.errorCondition = types.wrap_symbol(condition);
    answer(context, address, status, body);
    return;
  }
  const queue = queueOf(path(address));
  // A batch is a message whose data sections are messages (azure-servicebus 7.15 behaviour).
  const isBatch = context.format === 0x80013700;
  const messages = isBatch ? [].concat(rhea.message.decode(message).body.content).map(rhea.message.decode) : [message];
  messages.forEach((one) => enqueue(queue, one));
  pump(queue);
}

function enqueue(queue, message) {
  numbers += 1;
  const { message_annotations: _annotations, ...rest } = message;
  const session_id = message.group_id;
  queue.ready.push({ message: rest, number: numbers, deliveries: 0, session_id });
  if (queue.has_sessions && !queue.sessions.has(session_id)) {
    queue.sessions.set(session_id, { id: session_id, link: null, state: null });
  }
}

function answer(context, address, application_properties, body) {
  const link = (context.receiver.session.replies || {})[address];
  let correlation_id = context.message.message_id;
  if (Buffer.isBuffer(correlation_id)) correlation_id = types.wrap_uuid(correlation_id);
  if (link) link.send({ correlation_id, application_properties, body });
  else complain(`nobody takes the answers of ${address}`);
}

// The container --------------------------------------------------------------------------------------------------------

const container = rhea.create_container({ id: "judge", autosettle: false });
container.sasl_server_mechanisms.enable_anonymous();
container.on("connection_open", ({ connection }) => {
  counters.connections += 1;
  granted.set(connection, new Set());
});
container.on("session_open", ({ session }) => {
  session.local.begin.handle_max = options.handle_max;
});
container.on("sender_open", onSender);
container.on("receiver_open", onReceiver);
container.on("message", onMessage);
for (const outcome of ["accepted", "released", "modified", "rejected"]) {
  container.on(outcome, (context) => {
    if (context.sender.queue) settle(context, outcome);
    else context.delivery.update(true);
  });
}
container.on("sendable", ({ sender }) => sender.queue && pump(sender.queue));
container.on("sender_close", ({ sender }) => gone(sender));
container.on("session_close", ({ session }) => {
  for (const queue of queues.values()) queue.receivers.filter((link) => link.session === session).forEach(gone);
});
for (const ending of ["disconnected", "connection_close"]) {
  container.on(ending, ({ connection }) => allGone(connection));
}
for (const fault of ["error", "protocol_error", "session_error", "sender_error", "receiver_error"]) {
  container.on(fault, (found) => complain(`${fault}: ${found.stack || (found.session && JSON.stringify(found.session.error)) || found}`));
}
container.on("connection_error", ({ connection }) => complain(`connection_error: ${JSON.stringify(connection.error)}`));

const server = container.listen({
  host: "127.0.0.1",
  port: 0,
  tcp_no_delay: true,
  max_frame_size: options.max_frame_size,
  channel_max: options.channel_max,
  receiver_options: { credit_window: options.credit_window || 100, autoaccept: true },
  sender_options: { autosettle: false },
});
server.on("listening", () => console.log(JSON.stringify({ port: server.address().port })));
readline.createInterface({ input: process.stdin }).on("line", () => console.log(JSON.stringify(counters)));
