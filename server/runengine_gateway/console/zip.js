// Reads a zip: the list of its files, and each when it is asked for. Not ZIP64, nor what is encrypted.

const END = 0x06054b50;

const view = async (blob, start, end) => new DataView(await blob.slice(start, end).arrayBuffer());

// Returns [{ name, size, read(limit) }]; `read` returns a Blob. Raises Error for what is no such zip.
export async function readZip(blob) {
	const tail = await view(blob, Math.max(0, blob.size - 65557)), files = [];
	let end = tail.byteLength - 22;
	while (end >= 0 && tail.getUint32(end, true) !== END) end -= 1;
	if (end < 0) throw new Error("It is no zip.");
	const start = tail.getUint32(end + 16, true), directory = await view(blob, start, start + tail.getUint32(end + 12, true));
	for (let at = 0, left = tail.getUint16(end + 10, true); left > 0; left -= 1) {
		const short = (offset) => directory.getUint16(at + offset, true), long = (offset) => directory.getUint32(at + offset, true), length = short(28);
		const name = new TextDecoder().decode(new Uint8Array(directory.buffer, at + 46, length)), place = [short(10), long(20), long(42)];
		if (!name.endsWith("/")) files.push({ name, size: long(24), read: (limit) => unpack(blob, limit, ...place) });
		at += 46 + length + short(30) + short(32);
	}
	return files;
}

async function unpack(blob, limit, method, packed, place) {
	const head = await view(blob, place, place + 30), start = place + 30 + head.getUint16(26, true) + head.getUint16(28, true);
	const content = blob.slice(start, start + packed), parts = [];
	if (method === 0) return content;
	const reader = content.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
	// Counted as it comes out: what the directory says of its size may be a lie.
	for (let left = limit, part = await reader.read(); !part.done; part = await reader.read()) {
		left -= part.value.byteLength;
		if (left < 0) throw new Error("It is too large to be shown here.");
		parts.push(part.value);
	}
	return new Blob(parts);
}
