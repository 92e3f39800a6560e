// Places the nodes of a graph in layers, so that edges lead on and few cross. It knows no page.

const SWEEPS = 8;
const mean = (numbers) => numbers.reduce((sum, each) => sum + each, 0) / numbers.length;

// `nodes`: { id, along, across }, sizes along the way and across it; `edges`: { source, target }, none from a node to
// itself. Returns { places: Map id -> { x, y } (along, across) of centres, edges: [{ edge, back, points }], x, y: sizes }.
export function layOut(nodes, edges, layerGap, gap) {
	const byId = new Map(nodes.map((node) => [node.id, { ...node, next: [], previous: [] }]));
	const [links, layerOf] = linksOf([...byId.keys()], edges), layers = [];
	for (const [id, node] of byId) (layers[layerOf.get(id)] ??= []).push(node);
	// An edge over several layers bends in each that it passes.
	const chains = links.map(({ edge, back, from, to }) => {
		const bends = layers.slice(layerOf.get(from) + 1, layerOf.get(to)).map((layer) => {
			const bend = { along: 0, across: gap / 2, next: [], previous: [], bend: true };
			layer.push(bend);
			return bend;
		});
		const chain = [byId.get(from), ...bends, byId.get(to)];
		chain.slice(1).forEach((node, index) => {
			node.previous.push(chain[index]);
			chain[index].next.push(node);
		});
		return { edge, back, chain };
	});
	order(layers);
	placeAcross(layers, gap);
	let x = -layerGap;
	for (const layer of layers) {
		const size = Math.max(...layer.map((node) => node.along));
		for (const node of layer) Object.assign(node, { x: x + layerGap + size / 2, size });
		x += layerGap + size;
	}
	return { places: byId, x, y: Math.max(...layers.flat().map((node) => node.y + node.across / 2)), edges: chains.map(({ edge, back, chain }) => {
		// Straight beside the nodes of a layer that it passes.
		const points = chain.flatMap(({ x: at, y, size, bend }) => (bend ? [-1, 1] : [0]).map((side) => ({ x: at + side * size / 2, y })));
		return { edge, back, points: back ? points.reverse() : points };
	}) };
}

// The edges as links that close no circle (one that a search in depth finds to lead back is turned round), and the layer
// of each node: one more than the last of those before it.
function linksOf(ids, edges) {
	const entered = new Set(edges.map(({ target }) => target)), open = new Set(), back = new Set(), sorted = [];
	const visit = (id) => {
		if (sorted.includes(id)) return;
		open.add(id);
		for (const edge of edges.filter(({ source }) => source === id)) open.has(edge.target) ? back.add(edge) : visit(edge.target);
		open.delete(id);
		sorted.unshift(id);
	};
	// Those that nothing leads to first: begun within a circle, the search would turn it round.
	ids.toSorted((a, b) => entered.has(a) - entered.has(b)).forEach(visit);
	const links = edges.map((edge) => {
		const ends = [edge.source, edge.target], [from, to] = back.has(edge) ? ends.reverse() : ends;
		return { edge, back: back.has(edge), from, to };
	}), layers = new Map();
	for (const id of sorted) layers.set(id, Math.max(0, ...links.filter(({ to }) => to === id).map(({ from }) => layers.get(from) + 1)));
	return [links, layers];
}

// Calls `move(layer, wanted)` for each layer, forth and back in turn: `wanted` are the middles of its nodes' neighbours.
function sweep(layers, of, move) {
	for (let turn = 0; turn < SWEEPS; turn += 1) {
		const [side, all] = turn % 2 ? ["next", layers.toReversed()] : ["previous", layers];
		for (const layer of all) move(layer, layer.map((node) => (node[side].length ? mean(node[side].map((each) => each[of])) : node[of])));
	}
}

// Orders each layer by what its nodes are linked to, so that few edges cross.
function order(layers) {
	const number = (layer) => layer.forEach((node, index) => { node.index = index; });
	layers.forEach(number);
	sweep(layers, "index", (layer, wanted) => {
		layer.forEach((node, index) => { node.index = wanted[index]; });
		number(layer.sort((a, b) => a.index - b.index));
	});
}

// Moves each node towards the middle of its neighbours, as far as those beside it allow.
function placeAcross(layers, gap) {
	const offsetsOf = (layer) => {
		let offset = 0;
		return layer.map((node, index) => (offset += index && layer[index - 1].across / 2 + gap + node.across / 2));
	};
	for (const layer of layers) offsetsOf(layer).forEach((offset, index, all) => { layer[index].y = offset - all.at(-1) / 2; });
	sweep(layers, "y", (layer, wanted) => {
		// The nearest places, by least squares, that keep order and gaps: those that would change places form a block.
		const offsets = offsetsOf(layer), blocks = [];
		wanted.forEach((place, index) => {
			blocks.push([place - offsets[index]]);
			while (blocks.length > 1 && mean(blocks.at(-2)) > mean(blocks.at(-1))) blocks.push(blocks.splice(-2).flat());
		});
		blocks.flatMap((block) => block.map(() => mean(block))).forEach((place, index) => { layer[index].y = place + offsets[index]; });
	});
	const low = Math.min(...layers.flat().map((node) => node.y - node.across / 2));
	for (const node of layers.flat()) node.y -= low;
}
