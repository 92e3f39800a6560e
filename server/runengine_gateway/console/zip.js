// Reads a zip: its list of files, and each file when it is asked for. ZIP64 and encryption are not read.

const END = 0x06054b50, ENTRY = 0x02014b50;
const MAX_FILES = 1000;

// Returns [{ name, size, read(limit) }]; `read` returns a Blob. Raises Error for what is no such zip.
export async function readZip(blob) {
  const tail = Math.max(0, blob.size - 65557);
  const bytes = new DataView(await blob.slice(tail).arrayBuffer());
  let end = bytes.byteLength - 22;
  while (end >= 0 && bytes.getUint32(end, true) !== END) end -= 1;
  if (end < 0) throw new Error("it has no directory.");
  const count = bytes.getUint16(end + 10, true);
  const [length, start] = [bytes.getUint32(end + 12, true), bytes.getUint32(end + 16, true)];
  const directory = new DataView(await blob.slice(start, start + length).arrayBuffer());
  const text = new TextDecoder();
  const files = [];
  for (let at = 0, left = Math.min(count, MAX_FILES); left > 0; left -= 1) {
    if (directory.getUint32(at, true) !== ENTRY) throw new Error("its directory is damaged.");
    const [method, packed, size] = [directory.getUint16(at + 10, true), directory.getUint32(at + 20, true), directory.getUint32(at + 24, true)];
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => directory.getUint16(at + offset, true));
    const place = directory.getUint32(at + 42, true);
    const name = text.decode(new Uint8Array(directory.buffer, at + 46, nameLength));
    if (!name.endsWith("/")) files.push({ name, size, read: (limit) => read(blob, { place, packed, method, size }, limit) });
    at += 46 + nameLength + extra + comment;
  }
  return files;
}

async function read(blob, { place, packed, method, size }, limit) {
  // What the directory says of the size may be a lie; what comes out is counted too.
  if (size > limit) throw new Error("Too large to show here.");
  const head = new DataView(await blob.slice(place, place + 30).arrayBuffer());
  const start = place + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const content = blob.slice(start, start + packed);
  if (method === 0) return content;
  if (method !== 8) throw new Error("It is packed in a way that is not known here.");
  const parts = [];
  let total = 0;
  const reader = content.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    total += part.value.byteLength;
    if (total > limit) throw new Error("Too large to show here.");
    parts.push(part.value);
  }
  return new Blob(parts);
}
