// Purpose: what every stage that reads rows begins with: element types, their unpacking, and the distances made of
//   sums. This text is put before the stages that name it; it holds no entry point and no binding.
//
// Shapes: a row is padded by zeros to whole units of 16 bytes (4 f32, 8 f16 or 16 bytes), so that zeros add nothing to
//   any sum. A quad is 4 consecutive coordinates as f32. Beside each row lie two words, its numbers:
//     x  bytes: |row|^2, an integer; floats: 1 / |row| as f32 bits, 0 for a zero row
//     y  the lifted coordinate of the graph's geometry under inner product, under cosine 1 / |row|, as f32 bits
//
// Constants of the pipeline: A_TYPE and B_TYPE, the element types of the two operands; MODE, the distance.
// CPU twin: distance/geometry.rs.

const F32 = 0u;
const F16 = 1u;
const U8 = 2u;
const I8 = 3u;

const L2 = 0u;
const NEGATIVE_DOT = 1u;
const COSINE = 2u;
const GRAPH_COSINE = 3u;
const GRAPH_INNER_PRODUCT = 4u;

override A_TYPE: u32 = 0u;
override B_TYPE: u32 = 0u;
override MODE: u32 = 0u;

// Sorts last; no row carries it.
const NO_ROW = 0xffffffffu;

// The unit of a row that holds a quad.
fn unit_of(element: u32, quad: u32) -> u32 {
    switch element {
        case F32: { return quad; }
        case F16: { return quad >> 1u; }
        default: { return quad >> 2u; }
    }
}

// A quad out of its unit.
fn unpack_quad(element: u32, unit: vec4<u32>, quad: u32) -> vec4<f32> {
    switch element {
        case F32: { return bitcast<vec4<f32>>(unit); }
        case F16: {
            let half = select(unit.xy, unit.zw, (quad & 1u) == 1u);
            return vec4<f32>(unpack2x16float(half.x), unpack2x16float(half.y));
        }
        case U8: { return vec4<f32>(unpack4xU8(unit[quad & 3u])); }
        default: { return vec4<f32>(unpack4xI8(unit[quad & 3u])); }
    }
}

// True where both operands are bytes of one type: their sums are integers, exactly.
fn sums_bytes() -> bool {
    return A_TYPE == B_TYPE && A_TYPE >= U8;
}

// True where the distance is made of products, false where it is made of squared differences.
fn sums_products() -> bool {
    return MODE != L2 && MODE != GRAPH_INNER_PRODUCT;
}

// The sum's terms of one quad.
fn quad_terms(a: vec4<f32>, b: vec4<f32>) -> f32 {
    if sums_products() {
        return dot(a, b);
    }
    let difference = a - b;
    return dot(difference, difference);
}

// Dot product of 16 bytes, modulo 2^32.
fn byte_products(a: vec4<u32>, b: vec4<u32>) -> u32 {
    if B_TYPE == U8 {
        return dot4U8Packed(a.x, b.x) + dot4U8Packed(a.y, b.y) + dot4U8Packed(a.z, b.z) + dot4U8Packed(a.w, b.w);
    }
    let signed = dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
    return bitcast<u32>(signed);
}

fn inverse_norm(element: u32, numbers: vec2<u32>) -> f32 {
    if element >= U8 {
        return select(0.0, 1.0 / sqrt(f32(max(numbers.x, 1u))), numbers.x > 0u);
    }
    return bitcast<f32>(numbers.x);
}

// The distance made of a sum of quad_terms.
fn distance_of_sum(sum: f32, a: vec2<u32>, b: vec2<u32>) -> f32 {
    switch MODE {
        case NEGATIVE_DOT: { return -sum; }
        case COSINE: { return 1.0 - sum * inverse_norm(A_TYPE, a) * inverse_norm(B_TYPE, b); }
        case GRAPH_COSINE: { return max(1.0 - sum * (inverse_norm(A_TYPE, a) * inverse_norm(B_TYPE, b)), 0.0); }
        case GRAPH_INNER_PRODUCT: {
            let lift = bitcast<f32>(a.y) - bitcast<f32>(b.y);
            return sum + lift * lift;
        }
        default: { return sum; }
    }
}

// The distance made of a sum of byte_products. |a|^2 + |b|^2 stays below 2^32, and |a - b|^2 below 2^31.
fn distance_of_products(products: u32, a: vec2<u32>, b: vec2<u32>) -> f32 {
    if !sums_products() {
        return distance_of_sum(f32(a.x + b.x - 2u * products), a, b);
    }
    if B_TYPE == U8 {
        return distance_of_sum(f32(products), a, b);
    }
    return distance_of_sum(f32(bitcast<i32>(products)), a, b);
}

// Order-preserving bits of a distance: unsigned comparison of keys is the total order of floats.
fn key_of(distance: f32) -> u32 {
    let bits = bitcast<u32>(distance);
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

// (key, id) before (key, id).
fn is_before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x < b.x || (a.x == b.x && a.y < b.y);
}
