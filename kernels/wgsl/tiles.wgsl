// Purpose: distances of a tile of 64 rows of A to 64 rows of B, 4 x 4 a thread in registers; put after rows.wgsl and
//   before the stages that select from tiles.
//
// Shapes: a_rows (rows of A, a_stride units), b_rows (rows of B, b_stride units), both in units of 16 bytes; *_numbers
//   two words a row. Thread (x, y) of a workgroup (16, 16) holds rows y + 16 i of A against rows x + 16 j of B, i, j <
//   4.
// Launch: workgroups of (16, 16); 8 KiB of workgroup memory. Rows past the end are read as the last row.
// Sums: bytes of one type exactly in 32 bits; all else in f32, where sums of 256 terms are summed again, so that the
//   rounding of a long row does not grow with its length.
// CPU twin: distance/scalar.rs, cpu/tiles.rs.

@group(0) @binding(1) var<storage, read> a_rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> a_numbers: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> b_rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> b_numbers: array<vec2<u32>>;

// What a tile needs to know of its operands.
struct Operands {
    // Units of a row.
    a_stride: u32,
    b_stride: u32,
    // Quads of a row that hold coordinates.
    quads: u32,
}

// Four units or quads of 64 rows, `[part * 64 + row]`: neighbouring threads read neighbouring rows.
var<workgroup> a_tile: array<vec4<u32>, 256>;
var<workgroup> b_tile: array<vec4<u32>, 256>;

// Distances of the thread's 4 rows of A (one vector each) to its 4 rows of B.
struct Tile {
    d0: vec4<f32>,
    d1: vec4<f32>,
    d2: vec4<f32>,
    d3: vec4<f32>,
}

fn row_terms(a: vec4<u32>, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>) -> vec4<f32> {
    let quad = bitcast<vec4<f32>>(a);
    return vec4<f32>(
        quad_terms(quad, bitcast<vec4<f32>>(b0)),
        quad_terms(quad, bitcast<vec4<f32>>(b1)),
        quad_terms(quad, bitcast<vec4<f32>>(b2)),
        quad_terms(quad, bitcast<vec4<f32>>(b3)),
    );
}

fn row_products(a: vec4<u32>, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(byte_products(a, b0), byte_products(a, b1), byte_products(a, b2), byte_products(a, b3));
}

fn row_of_sums(sums: vec4<f32>, a: vec2<u32>, b0: vec2<u32>, b1: vec2<u32>, b2: vec2<u32>, b3: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(
        distance_of_sum(sums.x, a, b0),
        distance_of_sum(sums.y, a, b1),
        distance_of_sum(sums.z, a, b2),
        distance_of_sum(sums.w, a, b3),
    );
}

fn row_of_products(
    products: vec4<u32>, a: vec2<u32>, b0: vec2<u32>, b1: vec2<u32>, b2: vec2<u32>, b3: vec2<u32>,
) -> vec4<f32> {
    return vec4<f32>(
        distance_of_products(products.x, a, b0),
        distance_of_products(products.y, a, b1),
        distance_of_products(products.z, a, b2),
        distance_of_products(products.w, a, b3),
    );
}

// Distances of rows a_begin.. to rows b_begin..; a_last and b_last are the last rows that exist. Called by whole
// workgroups.
fn tile_distances(
    operands: Operands, a_begin: u32, a_last: u32, b_begin: u32, b_last: u32, local: vec2<u32>,
) -> Tile {
    let thread = local.y * 16u + local.x;
    // What this thread brings: part `thread / 64` of row `thread % 64`.
    let part = thread >> 6u;
    let a_row = min(a_begin + (thread & 63u), a_last) * operands.a_stride;
    let b_row = min(b_begin + (thread & 63u), b_last) * operands.b_stride;
    let bytes = sums_bytes();
    // A thread without a pair only brings rows.
    let busy = a_begin + local.y <= a_last && b_begin + local.x <= b_last;
    let parts = select(operands.quads, operands.a_stride, bytes);

    var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
    var t0 = vec4<f32>(); var t1 = vec4<f32>(); var t2 = vec4<f32>(); var t3 = vec4<f32>();
    var n0 = vec4<u32>(); var n1 = vec4<u32>(); var n2 = vec4<u32>(); var n3 = vec4<u32>();
    for (var first = 0u; first < parts; first += 4u) {
        let mine = first + part;
        var a = vec4<u32>();
        var b = vec4<u32>();
        if mine < parts {
            if bytes {
                a = a_rows[a_row + mine];
                b = b_rows[b_row + mine];
            } else {
                a = bitcast<vec4<u32>>(unpack_quad(A_TYPE, a_rows[a_row + unit_of(A_TYPE, mine)], mine));
                b = bitcast<vec4<u32>>(unpack_quad(B_TYPE, b_rows[b_row + unit_of(B_TYPE, mine)], mine));
            }
        }
        a_tile[thread] = a;
        b_tile[thread] = b;
        workgroupBarrier();
        if busy {
            for (var at = 0u; at < 256u; at += 64u) {
                let a0 = a_tile[at + local.y];
                let a1 = a_tile[at + local.y + 16u];
                let a2 = a_tile[at + local.y + 32u];
                let a3 = a_tile[at + local.y + 48u];
                let b0 = b_tile[at + local.x];
                let b1 = b_tile[at + local.x + 16u];
                let b2 = b_tile[at + local.x + 32u];
                let b3 = b_tile[at + local.x + 48u];
                if bytes {
                    n0 += row_products(a0, b0, b1, b2, b3);
                    n1 += row_products(a1, b0, b1, b2, b3);
                    n2 += row_products(a2, b0, b1, b2, b3);
                    n3 += row_products(a3, b0, b1, b2, b3);
                } else {
                    t0 += row_terms(a0, b0, b1, b2, b3);
                    t1 += row_terms(a1, b0, b1, b2, b3);
                    t2 += row_terms(a2, b0, b1, b2, b3);
                    t3 += row_terms(a3, b0, b1, b2, b3);
                }
            }
        }
        workgroupBarrier();
        if !bytes && (first & 63u) == 60u {
            s0 += t0; s1 += t1; s2 += t2; s3 += t3;
            t0 = vec4<f32>(); t1 = vec4<f32>(); t2 = vec4<f32>(); t3 = vec4<f32>();
        }
    }

    let a0 = a_numbers[min(a_begin + local.y, a_last)];
    let a1 = a_numbers[min(a_begin + local.y + 16u, a_last)];
    let a2 = a_numbers[min(a_begin + local.y + 32u, a_last)];
    let a3 = a_numbers[min(a_begin + local.y + 48u, a_last)];
    let b0 = b_numbers[min(b_begin + local.x, b_last)];
    let b1 = b_numbers[min(b_begin + local.x + 16u, b_last)];
    let b2 = b_numbers[min(b_begin + local.x + 32u, b_last)];
    let b3 = b_numbers[min(b_begin + local.x + 48u, b_last)];
    if bytes {
        return Tile(
            row_of_products(n0, a0, b0, b1, b2, b3),
            row_of_products(n1, a1, b0, b1, b2, b3),
            row_of_products(n2, a2, b0, b1, b2, b3),
            row_of_products(n3, a3, b0, b1, b2, b3),
        );
    }
    return Tile(
        row_of_sums(s0 + t0, a0, b0, b1, b2, b3),
        row_of_sums(s1 + t1, a1, b0, b1, b2, b3),
        row_of_sums(s2 + t2, a2, b0, b1, b2, b3),
        row_of_sums(s3 + t3, a3, b0, b1, b2, b3),
    );
}
