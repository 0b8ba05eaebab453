// Purpose: sums of groups of rows: the centroid update of k-means, a segment of a centroid's points at a time.
//
// Shapes: rows (count, stride units) f32, see rows.wgsl; order (count) rows grouped by centroid; segments (segments) of
//   (first and end place in order); out (segments, stride units) f32. The host adds a centroid's segments in f64.
// Launch: one thread for a segment's quad; workgroups of 64, in a grid folded at `fold` workgroups. A segment has few
//   rows (256), so that f32 sums them well; their order is that of `order`.
// CPU twin: cpu/quantise.rs; plain::kmeans_step.

struct Params {
    stride: u32,
    segments: u32,
    fold: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> segments: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = (group.x + group.y * params.fold) * 64u + thread;
    let number = at / params.stride;
    if number >= params.segments {
        return;
    }
    let segment = segments[number];
    let quad = at % params.stride;
    var sum = vec4<f32>();
    for (var i = segment.x; i < segment.y; i += 1u) {
        sum += rows[order[i] * params.stride + quad];
    }
    out[at] = sum;
}
