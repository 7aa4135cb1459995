// SPDX-License-Identifier: MIT
// Reads HTTP requests with Node's own parser (llhttp, strict). stdin is cases, each a length (32 bits, little-endian) and
// its bytes; stdout is readings in the same form. A reading is "R", or "A" and NUL-separated: method, target, version,
// the body in hex, 1 when it is complete, and the fields, each a name and a value. With the argument `stream` it is method,
// target, body in hex and 1 or 0 of each request, NUL-separated. See http_readers.py.
'use strict';
const fs = require('fs');
const { HTTPParser, allMethods } = process.binding('http_parser');
const methods = allMethods || require('_http_common').methods;
const stream = process.argv[2] === 'stream';

const parser = new HTTPParser();
let fields, target, found;
parser[HTTPParser.kOnMessageBegin | 0] = () => {
  fields = [];
  target = '';
};
parser[HTTPParser.kOnHeaders | 0] = (list, url) => {
  fields.push(...list);
  target += url;
};
parser[HTTPParser.kOnHeadersComplete | 0] = (major, minor, list, method, url) => {
  if (list) fields.push(...list);
  if (url) target += url;
  found.push({ method: methods[method], target, version: major + '.' + minor, fields: fields.slice(), body: '', complete: 0 });
  return 0;
};
parser[HTTPParser.kOnBody | 0] = (part) => {
  found[found.length - 1].body += Buffer.from(part).toString('latin1');
};
parser[HTTPParser.kOnMessageComplete | 0] = () => { found[found.length - 1].complete = 1; };

const hex = (text) => Buffer.from(text, 'latin1').toString('hex');

function read(data) {
  fields = [];
  target = '';
  found = [];
  parser.initialize(HTTPParser.REQUEST, {}, 1 << 20, 0);
  const bad = parser.execute(data) instanceof Error;
  if (stream) return found.flatMap((m) => [m.method, m.target, hex(m.body), m.complete]).join('\0');
  if (!found.length || (bad && !found[0].complete)) return 'R';
  const m = found[0];
  return 'A' + [m.method, m.target, m.version, hex(m.body), m.complete, ...m.fields].join('\0');
}

const input = fs.readFileSync(0);
const out = [];
for (let at = 0; at < input.length;) {
  const n = input.readUInt32LE(at);
  const reading = Buffer.from(read(input.subarray(at + 4, at + 4 + n)), 'latin1');
  const size = Buffer.alloc(4);
  size.writeUInt32LE(reading.length);
  out.push(size, reading);
  at += 4 + n;
}
fs.writeFileSync(1, Buffer.concat(out));
