// Purpose: robust prune (DiskANN, NeurIPS 2019, algorithm 2), one workgroup a point: candidates are scored, sorted by
//   (distance, id), freed of repeats and of the point itself; then taken in order unless a kept one occludes them,
//   first with alpha 1, then, while there is room, with the full alpha. Put after rows.wgsl; A_TYPE is the rows' type.
//
// Shapes: rows (rows, stride units) and their numbers; points (points, 2) of vec4: (row of the point, its id, first and
//   end candidate), then (place in `long`, -, -, -); candidates (candidates) of (id, row); long, where LONG: one entry
//   a candidate; kept (points, max_degree + 1): how many, then their ids, nearest first.
// Launch: one workgroup of 128 a point, in a grid folded at `fold`; 10 KiB of workgroup memory. A list of more than
//   SHORT candidates needs the pipeline with LONG 1, which keeps its entries in storage.
// CPU twin: cpu/prune.rs; plain::robust_prune.

override LONG: u32 = 0u;

struct Params {
    stride: u32,
    points: u32,
    max_degree: u32,
    alpha: f32,
    fold: u32,
}

// A candidate at its distance from the point.
struct Entry {
    key: u32,
    id: u32,
    row: u32,
    // A state, see below.
    state: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> numbers: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> points: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> candidates: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> long: array<Entry>;
@group(0) @binding(6) var<storage, read_write> kept: array<u32>;

const THREADS = 128u;
const SHORT = 512u;
// Units of the row that all candidates are compared with, staged at a time.
const STAGED = 64u;

// States: a sum of these.
const OCCLUDED = 1u;
const OCCLUDED_AT_ALPHA = 2u;
const DROPPED = 4u;
const KEPT = 8u;

var<workgroup> entries: array<Entry, SHORT>;
var<workgroup> staged: array<vec4<u32>, STAGED>;
var<workgroup> next: atomic<u32>;
var<workgroup> chosen: u32;

fn entry_at(base: u32, i: u32) -> Entry {
    if LONG == 1u {
        return long[base + i];
    }
    return entries[i];
}

fn put(base: u32, i: u32, entry: Entry) {
    if LONG == 1u {
        long[base + i] = entry;
    } else {
        entries[i] = entry;
    }
}

fn mark(base: u32, i: u32, state: u32) {
    if LONG == 1u {
        long[base + i].state = state;
    } else {
        entries[i].state = state;
    }
}

fn barrier() {
    workgroupBarrier();
    if LONG == 1u {
        storageBarrier();
    }
}

// Distance from row `from`, the same for the whole workgroup, to row `to` where `wanted`. Called by whole workgroups.
fn distance_to(from_row: u32, to_row: u32, wanted: bool, thread: u32) -> f32 {
    var products = 0u;
    var sum = 0.0;
    for (var first = 0u; first < params.stride; first += STAGED) {
        let count = min(STAGED, params.stride - first);
        workgroupBarrier();
        if thread < count {
            staged[thread] = rows[from_row * params.stride + first + thread];
        }
        workgroupBarrier();
        if wanted {
            let other = to_row * params.stride + first;
            if sums_bytes() {
                for (var unit = 0u; unit < count; unit += 1u) {
                    products += byte_products(staged[unit], rows[other + unit]);
                }
            } else {
                // At most 512 terms, summed again over the stages. Bytes never come here.
                var part = 0.0;
                for (var unit = 0u; unit < count; unit += 1u) {
                    let a = staged[unit];
                    let b = rows[other + unit];
                    part += quad_terms(unpack_quad(A_TYPE, a, 0u), unpack_quad(A_TYPE, b, 0u));
                    if A_TYPE != F32 {
                        part += quad_terms(unpack_quad(A_TYPE, a, 1u), unpack_quad(A_TYPE, b, 1u));
                    }
                }
                sum += part;
            }
        }
    }
    if !wanted {
        return 0.0;
    }
    if sums_bytes() {
        return distance_of_products(products, numbers[from_row], numbers[to_row]);
    }
    return distance_of_sum(sum, numbers[from_row], numbers[to_row]);
}

fn distance_of_key(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) == 1u));
}

// One step of a sort as in select.wgsl.
fn sort_step(base: u32, count: u32, span: u32, flip: bool, thread: u32) {
    let half = span >> 1u;
    for (var at = thread; at < count; at += THREADS) {
        let offset = at % half;
        let low = at / half * span + offset;
        let high = select(low + half, low - offset + span - 1u - offset, flip);
        if high < count {
            let a = entry_at(base, low);
            let b = entry_at(base, high);
            if is_before(vec2<u32>(b.key, b.id), vec2<u32>(a.key, a.id)) {
                put(base, low, b);
                put(base, high, a);
            }
        }
    }
    barrier();
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let point = group.x + group.y * params.fold;
    if point >= params.points {
        return;
    }
    // Row, id, first and end candidate.
    let own = points[point * 2u];
    let base = points[point * 2u + 1u].x;
    let count = own.w - own.z;

    for (var first = 0u; first < count; first += THREADS) {
        let i = first + thread;
        let candidate = candidates[own.z + min(i, count - 1u)];
        let distance = distance_to(own.x, candidate.y, i < count, thread);
        if i < count {
            put(base, i, Entry(key_of(distance), candidate.x, candidate.y, 0u));
        }
    }
    barrier();
    for (var span = 2u; span < 2u * count; span *= 2u) {
        sort_step(base, count, span, true, thread);
        for (var inner = span / 2u; inner > 1u; inner /= 2u) {
            sort_step(base, count, inner, false, thread);
        }
    }
    // Equal ids lie at equal distances, so they are neighbours in the order.
    for (var i = thread; i < count; i += THREADS) {
        let id = entry_at(base, i).id;
        if id == own.y || (i > 0u && entry_at(base, max(i, 1u) - 1u).id == id) {
            mark(base, i, DROPPED);
        }
    }
    barrier();

    var degree = 0u;
    let rounds = select(1u, 2u, params.alpha > 1.0);
    for (var round = 0u; round < rounds && degree < params.max_degree; round += 1u) {
        let excluded = select(KEPT | DROPPED | OCCLUDED_AT_ALPHA, KEPT | DROPPED | OCCLUDED, round == 0u);
        var begin = 0u;
        loop {
            // The first candidate from `begin` on that is still in play.
            if thread == 0u {
                atomicStore(&next, count);
            }
            workgroupBarrier();
            for (var i = begin + thread; i < count; i += THREADS) {
                if (entry_at(base, i).state & excluded) == 0u {
                    atomicMin(&next, i);
                    break;
                }
            }
            workgroupBarrier();
            if thread == 0u {
                chosen = atomicLoad(&next);
            }
            let at = workgroupUniformLoad(&chosen);
            if at >= count {
                break;
            }
            let from_row = entry_at(base, at).row;
            degree += 1u;
            begin = at + 1u;
            barrier();
            if thread == 0u {
                mark(base, at, KEPT);
            }
            if degree == params.max_degree {
                break;
            }
            for (var first = begin; first < count; first += THREADS) {
                let i = first + thread;
                let entry = entry_at(base, min(i, count - 1u));
                let wanted = i < count && (entry.state & (KEPT | DROPPED | OCCLUDED_AT_ALPHA)) == 0u;
                let between = distance_to(from_row, entry.row, wanted, thread);
                if wanted {
                    let distance = distance_of_key(entry.key);
                    var state = entry.state;
                    if between <= 0.0 {
                        // A copy of a kept one.
                        state = DROPPED;
                    } else {
                        state |= select(0u, OCCLUDED, between < distance);
                        state |= select(0u, OCCLUDED_AT_ALPHA, params.alpha * between < distance);
                    }
                    mark(base, i, state);
                }
            }
            barrier();
        }
    }
    barrier();

    if thread == 0u {
        let out = point * (params.max_degree + 1u);
        var written = 0u;
        for (var i = 0u; i < count && written < degree; i += 1u) {
            let entry = entry_at(base, i);
            if (entry.state & KEPT) != 0u {
                written += 1u;
                kept[out + written] = entry.id;
            }
        }
        kept[out] = written;
    }
}
