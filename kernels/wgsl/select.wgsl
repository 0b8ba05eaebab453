// Purpose: merges each query's queue into its k best, ascending by (distance, id), and empties the queue.
//
// Shapes: best (queries, k) and queue (queries, capacity) of (key, id), see rows.wgsl; state (queries, 3): queue
//   length, key and id of the k-th best. Places without a row hold NO_ROW twice.
// Launch: one workgroup of 128 a query, in a grid folded at `fold`; 8 KiB of workgroup memory. `first`: nothing is in
//   `best`. Up to 1,024 entries are sorted in workgroup memory, more where they lie.
// The order of a queue depends on scheduling, its content and the sorted result do not.
// CPU twin: topk.rs.

struct Params {
    queries: u32,
    k: u32,
    capacity: u32,
    first: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> best: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> queue: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> state: array<u32>;

const THREADS = 128u;
const LOCAL = 1024u;

var<workgroup> entries: array<vec2<u32>, LOCAL>;
var<workgroup> queued: u32;

// The pair that comparison `at` of a step looks at: the lower place is to hold the smaller entry, whatever the step.
// Entries past the end count as largest and never move, so that any number can be sorted; a step over `total` entries
// has fewer than `total` pairs.
fn pair_of(at: u32, span: u32, flip: bool) -> vec2<u32> {
    let half = span >> 1u;
    let block = at / half;
    let offset = at % half;
    let low = block * span + offset;
    return vec2<u32>(low, select(low + half, block * span + span - 1u - offset, flip));
}

fn load(query: u32, have: u32, place: u32) -> vec2<u32> {
    if place < have {
        return best[query * params.k + place];
    }
    return queue[query * params.capacity + place - have];
}

fn store(query: u32, have: u32, place: u32, entry: vec2<u32>) {
    if place < have {
        best[query * params.k + place] = entry;
    } else {
        queue[query * params.capacity + place - have] = entry;
    }
}

fn step_local(thread: u32, total: u32, span: u32, flip: bool) {
    for (var at = thread; at < total; at += THREADS) {
        let pair = pair_of(at, span, flip);
        if pair.y < total {
            let low = entries[pair.x];
            let high = entries[pair.y];
            if is_before(high, low) {
                entries[pair.x] = high;
                entries[pair.y] = low;
            }
        }
    }
    workgroupBarrier();
}

fn step_stored(thread: u32, query: u32, have: u32, total: u32, span: u32, flip: bool) {
    for (var at = thread; at < total; at += THREADS) {
        let pair = pair_of(at, span, flip);
        if pair.y < total {
            let low = load(query, have, pair.x);
            let high = load(query, have, pair.y);
            if is_before(high, low) {
                store(query, have, pair.x, high);
                store(query, have, pair.y, low);
            }
        }
    }
    storageBarrier();
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let query = group.x + group.y * params.fold;
    if query >= params.queries {
        return;
    }
    if thread == 0u {
        queued = min(state[query * 3u], params.capacity);
    }
    let count = workgroupUniformLoad(&queued);
    if count == 0u && params.first == 0u {
        return;
    }
    let have = select(params.k, 0u, params.first == 1u);
    let total = have + count;
    let base = query * params.k;

    if total <= LOCAL {
        for (var i = thread; i < total; i += THREADS) {
            entries[i] = load(query, have, i);
        }
        workgroupBarrier();
        for (var span = 2u; span < 2u * total; span *= 2u) {
            step_local(thread, total, span, true);
            for (var inner = span / 2u; inner > 1u; inner /= 2u) {
                step_local(thread, total, inner, false);
            }
        }
        for (var i = thread; i < params.k; i += THREADS) {
            best[base + i] = select(vec2<u32>(NO_ROW, NO_ROW), entries[min(i, LOCAL - 1u)], i < total);
        }
    } else {
        for (var span = 2u; span < 2u * total; span *= 2u) {
            step_stored(thread, query, have, total, span, true);
            for (var inner = span / 2u; inner > 1u; inner /= 2u) {
                step_stored(thread, query, have, total, inner, false);
            }
        }
        if have == 0u {
            for (var i = thread; i < params.k; i += THREADS) {
                var entry = vec2<u32>(NO_ROW, NO_ROW);
                if i < total {
                    entry = queue[query * params.capacity + i];
                }
                best[base + i] = entry;
            }
        }
    }
    storageBarrier();
    if thread == 0u {
        let worst = best[base + params.k - 1u];
        state[query * 3u] = 0u;
        state[query * 3u + 1u] = worst.x;
        state[query * 3u + 2u] = worst.y;
    }
}
