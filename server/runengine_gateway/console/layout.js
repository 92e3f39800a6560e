// Places the nodes of a graph in layers, so that most edges lead the same way and few cross. Pure: it knows no page.
//
// An edge over several layers gets a point in each that it passes; an edge back, of a loop, is laid as if it led on.

const SWEEPS = 8;

// `nodes` are { id, along, across }, their sizes in the direction of the layers and across it; `edges` { source, target }.
// Returns { places: Map id -> { along, across }, of centres, edges: [{ edge, back, points }], along, across }.
export function layOut(nodes, edges, { layerGap, gap }) {
  const byId = new Map(nodes.map((node) => [node.id, { ...node, next: [], previous: [] }]));
  const known = edges.filter((edge) => byId.has(edge.source) && byId.has(edge.target) && edge.source !== edge.target);
  const back = edgesBack([...byId.keys()], known);
  const links = known.map((edge) => (back.has(edge) ? { edge, from: edge.target, to: edge.source } : { edge, from: edge.source, to: edge.target }));
  const layerOf = layersOf([...byId.keys()], links);
  const layers = [];
  for (const node of byId.values()) (layers[layerOf.get(node.id)] ??= []).push(node);
  const chains = links.map((link) => {
    const chain = [byId.get(link.from)];
    for (let layer = layerOf.get(link.from) + 1; layer < layerOf.get(link.to); layer += 1) {
      const bend = { along: 0, across: gap / 2, next: [], previous: [], isBend: true };
      layers[layer].push(bend);
      chain.push(bend);
    }
    chain.push(byId.get(link.to));
    for (let index = 1; index < chain.length; index += 1) {
      chain[index - 1].next.push(chain[index]);
      chain[index].previous.push(chain[index - 1]);
    }
    return { link, chain };
  });
  order(layers);
  const across = placeAcross(layers, gap);
  const along = placeAlong(layers, layerGap);
  return {
    places: new Map([...byId].map(([id, node]) => [id, { along: node.x, across: node.y }])),
    edges: chains.map(({ link, chain }) => {
      const points = chain.map((each) => ({ along: each.x, across: each.y }));
      return { edge: link.edge, back: back.has(link.edge), points: back.has(link.edge) ? points.reverse() : points };
    }),
    along,
    across,
  };
}

// The edges that close a circle, as a search in depth meets them.
function edgesBack(ids, edges) {
  const out = new Map(ids.map((id) => [id, []]));
  for (const edge of edges) out.get(edge.source).push(edge);
  const entered = new Set(edges.map((edge) => edge.target));
  const done = new Set(), open = new Set(), found = new Set();
  // Those that nothing leads to first: begun within a circle, the search would turn it round.
  for (const start of [...ids].sort((a, b) => entered.has(a) - entered.has(b))) {
    if (done.has(start)) continue;
    const stack = [[start, 0]];
    open.add(start);
    while (stack.length) {
      const top = stack.at(-1);
      const edge = out.get(top[0])[top[1]];
      top[1] += 1;
      if (edge === undefined) {
        open.delete(top[0]);
        done.add(top[0]);
        stack.pop();
      } else if (open.has(edge.target)) found.add(edge);
      else if (!done.has(edge.target)) {
        open.add(edge.target);
        stack.push([edge.target, 0]);
      }
    }
  }
  return found;
}

// The layer of each: one more than the last of those before it.
function layersOf(ids, links) {
  const left = new Map(ids.map((id) => [id, 0]));
  for (const link of links) left.set(link.to, left.get(link.to) + 1);
  const layers = new Map(ids.map((id) => [id, 0]));
  const ready = ids.filter((id) => left.get(id) === 0);
  for (let id = ready.shift(); id !== undefined; id = ready.shift()) {
    for (const link of links) {
      if (link.from !== id) continue;
      layers.set(link.to, Math.max(layers.get(link.to), layers.get(id) + 1));
      left.set(link.to, left.get(link.to) - 1);
      if (left.get(link.to) === 0) ready.push(link.to);
    }
  }
  return layers;
}

const mean = (numbers) => numbers.reduce((sum, each) => sum + each, 0) / numbers.length;

function number(layers) {
  for (const layer of layers) layer.forEach((node, index) => { node.index = index; });
}

function crossings(layers) {
  let found = 0;
  for (const layer of layers) {
    const ends = layer.flatMap((node) => node.next.map((each) => each.index).sort((a, b) => a - b));
    for (let one = 0; one < ends.length; one += 1) for (let two = one + 1; two < ends.length; two += 1) if (ends[one] > ends[two]) found += 1;
  }
  return found;
}

// Orders each layer by the middle of what its nodes are linked to, forth and back, and keeps the best.
function order(layers) {
  number(layers);
  let best = layers.map((layer) => [...layer]), least = crossings(layers);
  for (let sweep = 0; sweep < SWEEPS && least > 0; sweep += 1) {
    const forth = sweep % 2 === 0;
    for (const layer of forth ? layers : [...layers].reverse()) {
      const wanted = new Map(layer.map((node) => {
        const linked = forth ? node.previous : node.next;
        return [node, linked.length ? mean(linked.map((each) => each.index)) : node.index];
      }));
      layer.sort((a, b) => wanted.get(a) - wanted.get(b));
      number([layer]);
    }
    const now = crossings(layers);
    if (now < least) [best, least] = [layers.map((layer) => [...layer]), now];
  }
  best.forEach((layer, index) => { layers[index] = layer; });
  number(layers);
}

// Moves each node towards the middle of its neighbours, as far as those beside it allow. Returns the size across.
function placeAcross(layers, gap) {
  for (const layer of layers) {
    let at = 0;
    for (const node of layer) {
      node.y = at + node.across / 2;
      at += node.across + gap;
    }
    for (const node of layer) node.y -= (at - gap) / 2;
  }
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const forth = sweep % 2 === 0;
    for (const layer of forth ? layers : [...layers].reverse()) {
      const wanted = layer.map((node) => {
        const linked = forth ? node.previous : node.next;
        return linked.length ? mean(linked.map((each) => each.y)) : node.y;
      });
      spread(layer, wanted, gap);
    }
  }
  const all = layers.flat();
  const low = Math.min(...all.map((node) => node.y - node.across / 2));
  for (const node of all) node.y -= low;
  return Math.max(...all.map((node) => node.y + node.across / 2));
}

// The places nearest to what is wanted (by least squares) that keep the order and the gaps.
function spread(layer, wanted, gap) {
  const offsets = [];
  layer.forEach((node, index) => {
    const before = layer[index - 1];
    offsets.push(index === 0 ? 0 : offsets[index - 1] + before.across / 2 + gap + node.across / 2);
  });
  const blocks = [];
  wanted.forEach((place, index) => {
    blocks.push({ sum: place - offsets[index], size: 1 });
    while (blocks.length > 1 && blocks.at(-2).sum / blocks.at(-2).size > blocks.at(-1).sum / blocks.at(-1).size) {
      const last = blocks.pop();
      blocks.at(-1).sum += last.sum;
      blocks.at(-1).size += last.size;
    }
  });
  let index = 0;
  for (const block of blocks) {
    for (let member = 0; member < block.size; member += 1, index += 1) layer[index].y = block.sum / block.size + offsets[index];
  }
}

// Puts the layers one after the other. Returns the size along.
function placeAlong(layers, layerGap) {
  let at = 0;
  for (const layer of layers) {
    const size = Math.max(...layer.map((node) => node.along));
    for (const node of layer) node.x = at + size / 2;
    at += size + layerGap;
  }
  return at - layerGap;
}
