//! The answer to a search, as JSON or raw.
//!
//! Raw, little-endian: u32 queries, u32 k, then ids as u64 `(queries, k)`, then distances as f32 `(queries, k)`, nearest
//! first; where there are fewer than k, ids are 2^64 - 1 and distances infinite.

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use super::request::Form;
use crate::search_types::{Hits, QueryStats};

/// The body for `hits`, one a query.
pub(crate) fn encode(form: Form, hits: &[Hits], k: usize, stats: bool) -> Vec<u8> {
    match form {
        Form::Json => json(hits, stats),
        Form::Raw => raw(hits, k),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    results: Results<'a>,
}

struct Results<'a> {
    hits: &'a [Hits],
    stats: bool,
}

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.hits.len()))?;
        for hits in self.hits {
            let stats = self.stats.then(|| Cost::from(hits.stats));
            list.serialize_element(&Found { ids: &hits.ids, distances: &hits.distances, stats })?;
        }
        list.end()
    }
}

#[derive(Serialize)]
struct Found<'a> {
    ids: &'a [u64],
    /// JSON has no infinity: a distance beyond f32 is null.
    distances: &'a [f32],
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<Cost>,
}

#[derive(Serialize)]
struct Cost {
    distances: u64,
    hops: u64,
    pages: u64,
    bytes: u64,
    cache_hits: u64,
    io_wait_us: u64,
}

impl From<QueryStats> for Cost {
    fn from(stats: QueryStats) -> Self {
        Self {
            distances: stats.distances,
            hops: stats.hops,
            pages: stats.pages,
            bytes: stats.bytes,
            cache_hits: stats.cache_hits,
            io_wait_us: stats.io_wait_ns / 1000,
        }
    }
}

fn json(hits: &[Hits], stats: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + 24 * hits.iter().map(|hits| hits.ids.len()).sum::<usize>());
    let written = serde_json::to_writer(&mut body, &Answer { results: Results { hits, stats } });
    debug_assert!(written.is_ok(), "numbers are written into memory");
    body
}

fn raw(hits: &[Hits], k: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(8 + hits.len() * k * 12);
    body.extend_from_slice(&(hits.len() as u32).to_le_bytes());
    body.extend_from_slice(&(k as u32).to_le_bytes());
    for hits in hits {
        let ids = hits.ids.iter().copied().chain(std::iter::repeat(u64::MAX)).take(k);
        ids.for_each(|id| body.extend_from_slice(&id.to_le_bytes()));
    }
    for hits in hits {
        let distances = hits.distances.iter().copied().chain(std::iter::repeat(f32::INFINITY)).take(k);
        distances.for_each(|distance| body.extend_from_slice(&distance.to_le_bytes()));
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits() -> [Hits; 2] {
        let stats = QueryStats { pages: 4, io_wait_ns: 2500, ..QueryStats::default() };
        [
            Hits { ids: vec![7, 1 << 40], distances: vec![0.1, f32::INFINITY], stats },
            Hits { ids: vec![3], distances: vec![-1.5], stats: QueryStats::default() },
        ]
    }

    #[test]
    fn json_holds_what_was_found() {
        let body = encode(Form::Json, &hits(), 2, false);
        let text = r#"{"results":[{"ids":[7,1099511627776],"distances":[0.1,null]},{"ids":[3],"distances":[-1.5]}]}"#;
        assert_eq!(String::from_utf8(body).expect("text"), text);
        let body: serde_json::Value = serde_json::from_slice(&encode(Form::Json, &hits(), 2, true)).expect("JSON");
        assert_eq!(body["results"][0]["stats"]["pages"], 4);
        assert_eq!(body["results"][0]["stats"]["io_wait_us"], 2);
    }

    #[test]
    fn raw_answers_are_whole_matrices() {
        let body = encode(Form::Raw, &hits(), 2, false);
        let words: Vec<u32> = body.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        let infinite = f32::INFINITY.to_bits();
        let ids = [7, 0, 0, 256, 3, 0, u32::MAX, u32::MAX];
        let distances = [0.1f32.to_bits(), infinite, (-1.5f32).to_bits(), infinite];
        assert_eq!(words, [&[2, 2], &ids[..], &distances[..]].concat());
    }
}
