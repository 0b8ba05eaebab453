//! The kinds of codes, by name.

use std::fmt;
use std::str::FromStr;

use crate::pq::CodeBits;

/// How the rows of a list are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum CodecKind {
    /// Product-quantised codes, row after row, 8 or 4 bits a sub-space: `pq`. The only kind of format version 1.
    Pq,
    /// Product-quantised codes of 4 bits in blocks for in-register look-ups: `pq4`.
    Pq4,
    /// RaBitQ of this many bits a coordinate, 1 to 8: `rabitq1` to `rabitq8`.
    Rabitq(u8),
    /// A byte a coordinate: `sq8`.
    Sq8,
}

impl CodecKind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = CodecKind> {
        [CodecKind::Pq, CodecKind::Pq4, CodecKind::Sq8].into_iter().chain((1..=8).map(CodecKind::Rabitq))
    }

    /// Bytes that a row of `dim` coordinates takes in a list, about: `m` sub-spaces of `bits` where codes are product-quantised.
    pub fn bytes_a_row(self, dim: usize, m: usize, bits: CodeBits) -> usize {
        match self {
            CodecKind::Pq if bits == CodeBits::Eight => 4 + m,
            CodecKind::Pq => 4 + m.div_ceil(2),
            CodecKind::Pq4 => 4 + 2 * m.div_ceil(4),
            CodecKind::Rabitq(1) => 12 + 2 * dim.div_ceil(16),
            // The signs apart, so that they are looked up first.
            CodecKind::Rabitq(bits) => 24 + 2 * dim.div_ceil(16) * (1 + usize::from(bits)),
            CodecKind::Sq8 => 4 + dim.next_multiple_of(4),
        }
    }
}

impl fmt::Display for CodecKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecKind::Pq => f.write_str("pq"),
            CodecKind::Pq4 => f.write_str("pq4"),
            CodecKind::Rabitq(bits) => write!(f, "rabitq{bits}"),
            CodecKind::Sq8 => f.write_str("sq8"),
        }
    }
}

impl From<CodecKind> for String {
    fn from(kind: CodecKind) -> String {
        kind.to_string()
    }
}

impl FromStr for CodecKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = CodecKind::all().find(|kind| kind.to_string() == name);
        known.ok_or_else(|| format!("unknown codes {name:?}: use pq, pq4, rabitq1 to rabitq8, or sq8"))
    }
}

impl TryFrom<String> for CodecKind {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for kind in CodecKind::all() {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("rabitq9".parse::<CodecKind>().is_err() && "rabitq0".parse::<CodecKind>().is_err());
    }
}
