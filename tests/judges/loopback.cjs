// Loaded into public test servers before their own code: they listen on every interface, and one asks git for a commit.
"use strict";
const childProcess = require("node:child_process");
const { syncBuiltinESMExports } = require("node:module");
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  return typeof port === "number" ? listen.call(this, port, "127.0.0.1", ...rest) : listen.call(this, port, ...rest);
};

const execSync = childProcess.execSync;
childProcess.execSync = (command, options) =>
  String(command).startsWith("git rev-parse") ? Buffer.from("none") : execSync(command, options);
syncBuiltinESMExports();
