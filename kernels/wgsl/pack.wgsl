// Purpose: nodes of a graph as they lie in pages of an index file: vector records and places. Codes follow
//   (edge_codes.wgsl), into words that are zero here.
//
// Shapes: rows (named rows, row_words) of any type, as words, and their numbers, see rows.wgsl; node_rows (nodes), the
//   row of each node among the named; offsets (nodes + 1) into positions; pages (page_words) u32. Where `has_norm` is 1 a
//   record ends with the row's second number, 1 / |row|.
// Launch: one thread a word of the pages, workgroups of 64, in a grid folded at `fold` workgroups.
// CPU twin: nodes/pack.rs. Layout: builder/FORMAT.md.

struct Params {
    row_words: u32,
    // Words of a vector's coordinates, of a node, of a page or of as many as a node takes, and of all pages.
    coordinate_words: u32,
    node_words: u32,
    page_words: u32,
    all_words: u32,
    nodes_a_page: u32,
    nodes: u32,
    max_degree: u32,
    has_norm: u32,
    compact: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> numbers: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> node_rows: array<u32>;
@group(0) @binding(4) var<storage, read> offsets: array<u32>;
@group(0) @binding(5) var<storage, read> positions: array<u32>;
@group(0) @binding(6) var<storage, read_write> pages: array<u32>;

const NO_NEIGHBOR = 0xffffffffu;

fn word_of(node: u32, word: u32) -> u32 {
    let row = node_rows[node];
    if word < params.coordinate_words {
        return rows[row * params.row_words + word];
    }
    var rest = word - params.coordinate_words;
    if params.has_norm == 1u {
        if rest == 0u {
            return numbers[row].y;
        }
        rest -= 1u;
    }
    let first = offsets[node];
    let degree = offsets[node + 1u] - first;
    if params.compact == 1u {
        if rest == 0u {
            return degree;
        }
        rest -= 1u;
    }
    if rest >= params.max_degree {
        return 0u;
    }
    if rest < degree {
        return positions[first + rest];
    }
    return select(NO_NEIGHBOR, 0u, params.compact == 1u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = (group.x + group.y * params.fold) * 64u + thread;
    if at >= params.all_words {
        return;
    }
    let within = at % params.page_words;
    let node = (at / params.page_words) * params.nodes_a_page + within / params.node_words;
    var value = 0u;
    if within / params.node_words < params.nodes_a_page && node < params.nodes {
        value = word_of(node, within % params.node_words);
    }
    pages[at] = value;
}
