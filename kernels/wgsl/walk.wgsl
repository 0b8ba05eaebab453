// Purpose: greedy search of a graph (DiskANN, NeurIPS 2019, algorithm 1), one workgroup a query; put after rows.wgsl.
//   A walk keeps the `list_size` nearest rows seen, sorted by (key, id), and expands the nearest that it has not.
//   `seen` forgets: one place a hash, who comes last stays. A row that was forgotten is scored again, to the same bits,
//   and is then found in the list, or is too far for it as it was before: the table saves work and decides nothing.
//
// Shapes: a_rows (queries) and b_rows (base) and their numbers as in tiles.wgsl; graph (base rows, width): each row's
//   degree, then its edges; entries: (all queries + 1) where each one's begin, counted from the start of this buffer, then
//   the row numbers; out (queries of the dispatch, 1 + 2k): rows expanded, then (key, id), padded by NO_ROW.
// Launch: one workgroup of 64 a query from `first` on, in a grid folded at `fold`; 12 KiB of workgroup memory;
//   list_size from 1 to MOST. A step takes 64 neighbours at a time, and 8 threads share a row, as in pairs.wgsl.
// CPU twin: graph_search.rs.

struct Params {
    a_stride: u32,
    b_stride: u32,
    quads: u32,
    first: u32,
    queries: u32,
    width: u32,
    list_size: u32,
    k: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a_rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> a_numbers: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> b_rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> b_numbers: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> graph: array<u32>;
@group(0) @binding(6) var<storage, read> entries: array<u32>;
@group(0) @binding(7) var<storage, read_write> out: array<u32>;

const THREADS = 64u;
const LANES = 8u;
const MOST = 256u;
const PLACES = 1024u;

// Two lists, of which `side` is the one in use: its first `held` entries, ascending.
var<workgroup> lists: array<vec2<u32>, 2u * MOST>;
var<workgroup> expanded: array<u32, 2u * MOST>;
var<workgroup> side: u32;
var<workgroup> held: u32;
// Everything before it was expanded.
var<workgroup> next: u32;
var<workgroup> chosen: u32;

var<workgroup> seen: array<atomic<u32>, PLACES>;
var<workgroup> rows: array<u32, THREADS>;
var<workgroup> found: array<vec2<u32>, THREADS>;
var<workgroup> sorted: array<vec2<u32>, THREADS>;
var<workgroup> counter: atomic<u32>;
var<workgroup> counted: u32;
var<workgroup> sums: array<f32, THREADS>;
var<workgroup> products: array<u32, THREADS>;

// Entries of the list before `entry`.
fn before_in_list(entry: vec2<u32>) -> u32 {
    var first = 0u;
    var count = held;
    while count > 0u {
        let half = count / 2u;
        if is_before(lists[side * MOST + first + half], entry) {
            first += half + 1u;
            count -= half + 1u;
        } else {
            count = half;
        }
    }
    return first;
}

// New entries, of `many`, before `entry`.
fn before_in_new(many: u32, entry: vec2<u32>) -> u32 {
    var first = 0u;
    var count = many;
    while count > 0u {
        let half = count / 2u;
        if is_before(sorted[first + half], entry) {
            first += half + 1u;
            count -= half + 1u;
        } else {
            count = half;
        }
    }
    return first;
}

// `found` of the rows from `first` on, eight of `many`. Called by the whole workgroup.
fn score(query: u32, first: u32, many: u32, thread: u32) {
    let place = first + thread / LANES;
    let row = rows[min(place, many - 1u)];
    let a_row = query * params.a_stride;
    let b_row = row * params.b_stride;
    var product = 0u;
    var sum = 0.0;
    if sums_bytes() {
        for (var unit = thread % LANES; unit < params.a_stride; unit += LANES) {
            product += byte_products(a_rows[a_row + unit], b_rows[b_row + unit]);
        }
    } else {
        // Sums of 32 quads a thread are summed again.
        for (var begin = thread % LANES; begin < params.quads; begin += 32u * LANES) {
            var part = 0.0;
            for (var quad = begin; quad < min(begin + 32u * LANES, params.quads); quad += LANES) {
                let a = unpack_quad(A_TYPE, a_rows[a_row + unit_of(A_TYPE, quad)], quad);
                let b = unpack_quad(B_TYPE, b_rows[b_row + unit_of(B_TYPE, quad)], quad);
                part += quad_terms(a, b);
            }
            sum += part;
        }
    }
    sums[thread] = sum;
    products[thread] = product;
    workgroupBarrier();
    if thread % LANES == 0u && place < many {
        for (var lane = 1u; lane < LANES; lane += 1u) {
            sum += sums[thread + lane];
            product += products[thread + lane];
        }
        var distance = 0.0;
        if sums_bytes() {
            distance = distance_of_products(product, a_numbers[query], b_numbers[row]);
        } else {
            distance = distance_of_sum(sum, a_numbers[query], b_numbers[row]);
        }
        found[place] = vec2<u32>(key_of(distance), row);
    }
    workgroupBarrier();
}

// Whether an entry belongs into the list: near enough, not there, and the first of its kind among the new.
fn enters(entry: vec2<u32>, position: u32) -> bool {
    if held == params.list_size && !is_before(entry, lists[side * MOST + max(held, 1u) - 1u]) {
        return false;
    }
    let at = before_in_list(entry);
    if at < held && all(lists[side * MOST + min(at, MOST - 1u)] == entry) {
        return false;
    }
    for (var i = 0u; i < position; i += 1u) {
        if all(found[i] == entry) {
            return false;
        }
    }
    return true;
}

// What every thread adds to, summed. Called by the whole workgroup.
fn count_of(wanted: bool, thread: u32) -> u32 {
    if thread == 0u {
        atomicStore(&counter, 0u);
    }
    workgroupBarrier();
    if wanted {
        atomicAdd(&counter, 1u);
    }
    workgroupBarrier();
    if thread == 0u {
        counted = atomicLoad(&counter);
    }
    return workgroupUniformLoad(&counted);
}

// Scores the rows at `begin`, `many` <= THREADS of them, and takes the nearest into the list. By the whole workgroup.
fn admit(query: u32, of_graph: bool, begin: u32, many: u32, thread: u32) {
    if thread == 0u {
        atomicStore(&counter, 0u);
    }
    workgroupBarrier();
    if thread < many {
        var id = NO_ROW;
        if of_graph {
            id = graph[begin + thread];
        } else {
            id = entries[begin + thread];
        }
        // Fibonacci hashing: neighbours in number scatter.
        if atomicExchange(&seen[((id * 0x9E3779B1u) >> 7u) % PLACES], id) != id {
            rows[atomicAdd(&counter, 1u)] = id;
        }
    }
    workgroupBarrier();
    if thread == 0u {
        counted = atomicLoad(&counter);
    }
    let fresh = workgroupUniformLoad(&counted);
    for (var first = 0u; first < fresh; first += THREADS / LANES) {
        score(query, first, fresh, thread);
    }
    var own = vec2<u32>(NO_ROW, NO_ROW);
    if thread < fresh && enters(found[thread], thread) {
        own = found[thread];
    }
    let entering = count_of(own.y != NO_ROW, thread);
    if entering == 0u {
        return;
    }
    found[thread] = own;
    workgroupBarrier();
    if own.y != NO_ROW {
        var rank = 0u;
        for (var i = 0u; i < fresh; i += 1u) {
            rank += select(0u, 1u, is_before(found[i], own));
        }
        sorted[rank] = own;
    }
    workgroupBarrier();
    // A place in the merged list: the rank among one's own kind, and among the others.
    let kept = min(held + entering, params.list_size);
    let to = (1u - side) * MOST;
    if thread < entering {
        let place = thread + before_in_list(sorted[thread]);
        if place < kept {
            lists[to + place] = sorted[thread];
            expanded[to + place] = 0u;
        }
    }
    for (var i = thread; i < held; i += THREADS) {
        let entry = lists[side * MOST + i];
        let place = i + before_in_new(entering, entry);
        if place < kept {
            lists[to + place] = entry;
            expanded[to + place] = expanded[side * MOST + i];
        }
    }
    workgroupBarrier();
    if thread == 0u {
        next = min(next, before_in_list(sorted[0]));
        held = kept;
        side = 1u - side;
    }
    workgroupBarrier();
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let number = group.x + group.y * params.fold;
    if number >= params.queries {
        return;
    }
    let query = params.first + number;
    for (var i = thread; i < PLACES; i += THREADS) {
        atomicStore(&seen[i], NO_ROW);
    }
    if thread == 0u {
        side = 0u;
        held = 0u;
        next = 0u;
    }
    workgroupBarrier();
    for (var begin = entries[query]; begin < entries[query + 1u]; begin += THREADS) {
        admit(query, false, begin, min(THREADS, entries[query + 1u] - begin), thread);
    }
    var steps = 0u;
    loop {
        if thread == 0u {
            while next < held && expanded[side * MOST + min(next, MOST - 1u)] == 1u {
                next += 1u;
            }
            chosen = NO_ROW;
            if next < held {
                chosen = lists[side * MOST + min(next, MOST - 1u)].y;
                expanded[side * MOST + min(next, MOST - 1u)] = 1u;
            }
        }
        let row = workgroupUniformLoad(&chosen);
        if row == NO_ROW {
            break;
        }
        steps += 1u;
        let degree = graph[row * params.width];
        for (var first = 0u; first < degree; first += THREADS) {
            admit(query, true, row * params.width + 1u + first, min(THREADS, degree - first), thread);
        }
    }
    let to = number * (1u + 2u * params.k);
    if thread == 0u {
        out[to] = steps;
    }
    for (var i = thread; i < params.k; i += THREADS) {
        var entry = vec2<u32>(NO_ROW, NO_ROW);
        if i < held {
            entry = lists[side * MOST + min(i, MOST - 1u)];
        }
        out[to + 1u + 2u * i] = entry.x;
        out[to + 2u + 2u * i] = entry.y;
    }
}
