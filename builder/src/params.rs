//! Build parameters, one struct an algorithm, with defaults derived from the data.

use std::collections::BTreeMap;

use kiln_kernels::codec::CodecKind;
use kiln_kernels::edge_codes::LANES;
use kiln_kernels::nodes::{Edges, NodeLayout, VectorRecord};
use kiln_kernels::pq::CodeBits;
use kiln_kernels::{DType, Metric};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::BuilderError;
use crate::search_types::{Effort, IndexKind, Navigate};

/// How a graph is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GraphMethod {
    /// All pairs of many small overlapping leaves, pruned (after PiPNN, arXiv 2602.21247).
    Partition,
    /// Vamana as published, in batches (DiskANN, NeurIPS 2019; ParlayANN, PPoPP 2024).
    Insert,
}

/// How nodes lie in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Vector and neighbours; codes lie apart.
    #[default]
    Compact,
    /// Vector, neighbours and the neighbours' codes: one sequential read scores all neighbours.
    Inline,
}

/// Parameters of a Vamana graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VamanaParams {
    /// How the graph is built.
    pub method: GraphMethod,
    /// Edges a node at most, R.
    pub max_degree: usize,
    /// Candidates kept while inserting, L; `partition` uses it only where it links rows that nothing reaches.
    pub build_list: usize,
    /// Occlusion factor of robust prune, at least 1.
    pub alpha: f64,
    /// How nodes lie in the file.
    #[serde(default)]
    pub layout: Layout,
    /// `inline`: bits a coordinate of the neighbours' codes, 1 to 4.
    #[serde(default = "default_edge_bits")]
    pub edge_bits: u8,
    /// `compact`: sub-spaces of the product-quantised codes that SSD navigation may use.
    pub m: usize,
    /// Bits a sub-space.
    pub bits: CodeBits,
    /// Try a rotation (OPQ) and keep it if it lowers the held-out error.
    pub opq: bool,
    /// Seed of every choice.
    pub seed: u64,
}

fn default_edge_bits() -> u8 {
    2
}

impl VamanaParams {
    /// The layout of nodes with vectors of this kind.
    pub(crate) fn node_layout(&self, dtype: DType, dim: usize, metric: Metric) -> NodeLayout {
        let edges = match self.layout {
            Layout::Compact => Edges::Compact,
            Layout::Inline => Edges::Inline { bits: self.edge_bits },
        };
        NodeLayout { record: VectorRecord { dtype, dim, metric }, max_degree: self.max_degree, edges }
    }
}

/// Parameters of an IVF-PQ index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IvfPqParams {
    /// Inverted lists.
    pub nlist: usize,
    /// How rows are coded. Files of format version 1 know product codes only.
    #[serde(default = "codec_of_version_1")]
    pub codec: CodecKind,
    /// Sub-spaces of product codes.
    pub m: usize,
    /// Bits a sub-space of `pq` codes (those of `pq4` have 4).
    pub bits: CodeBits,
    /// Code every row in a second list too (SOAR, NeurIPS 2023): fewer lists for equal recall, twice the codes.
    #[serde(default)]
    pub soar: bool,
    /// Try a rotation (OPQ) and keep it if it lowers the held-out error.
    pub opq: bool,
    /// Seed of every choice.
    pub seed: u64,
}

fn codec_of_version_1() -> CodecKind {
    CodecKind::Pq
}

impl IvfPqParams {
    /// Sub-spaces that suit codes of a kind for rows of `dim` coordinates: four coordinates a byte.
    pub fn default_m(codec: CodecKind, dim: usize) -> usize {
        match codec {
            CodecKind::Pq4 => dim.div_ceil(2).max(1),
            CodecKind::Pq | CodecKind::Rabitq(_) | CodecKind::Sq8 => dim.div_ceil(4).max(1),
        }
    }
}

/// Which index to build, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "index")]
pub enum IndexParams {
    /// A Vamana graph.
    Vamana(VamanaParams),
    /// Inverted lists of product-quantised residuals.
    IvfPq(IvfPqParams),
}

impl IndexParams {
    /// Sane parameters for `n` rows of `dim` coordinates.
    ///
    /// Vamana: `partition`, R 64, L 100, alpha 1.2. IVF-PQ: nlist near 2 sqrt(n), a power of two, codes `pq4`. Both: four
    /// coordinates a byte of code.
    pub fn defaults(kind: IndexKind, n: u64, dim: usize) -> Self {
        let m = dim.div_ceil(4).max(1);
        let (bits, opq, seed) = (CodeBits::Eight, false, 42);
        match kind {
            IndexKind::Vamana => IndexParams::Vamana(VamanaParams {
                method: GraphMethod::Partition,
                max_degree: 64,
                build_list: 100,
                alpha: 1.2,
                layout: Layout::Compact,
                edge_bits: default_edge_bits(),
                m,
                bits,
                opq,
                seed,
            }),
            IndexKind::IvfPq => {
                let target = 2.0 * (n.max(1) as f64).sqrt();
                let nlist = (2f64.powf(target.log2().round()) as usize).clamp(1, n.max(1) as usize);
                let (codec, bits) = (CodecKind::Pq4, CodeBits::Four);
                let m = IvfPqParams::default_m(codec, dim);
                IndexParams::IvfPq(IvfPqParams { nlist, codec, m, bits, soar: false, opq, seed })
            }
        }
    }

    /// Seed of every choice.
    pub fn seed(&self) -> u64 {
        match self {
            IndexParams::Vamana(params) => params.seed,
            IndexParams::IvfPq(params) => params.seed,
        }
    }

    /// The kind of index.
    pub fn kind(&self) -> IndexKind {
        match self {
            IndexParams::Vamana(_) => IndexKind::Vamana,
            IndexParams::IvfPq(_) => IndexKind::IvfPq,
        }
    }

    /// Refuses values that cannot work for rows of `dim` coordinates, naming each.
    pub fn validate(&self, dim: usize) -> Result<(), BuilderError> {
        let check = |ok: bool, name: &'static str, value: String, allowed: String| {
            if ok { Ok(()) } else { Err(BuilderError::Parameter { name, value, allowed }) }
        };
        let m = match self {
            IndexParams::Vamana(p) => {
                let (r, l) = (p.max_degree, p.build_list);
                check((2..=4096).contains(&r), "max-degree", r.to_string(), "2 to 4096".into())?;
                check((1..=1 << 16).contains(&l), "build-list", l.to_string(), "1 to 65536".into())?;
                check((1.0..=4.0).contains(&p.alpha), "alpha", p.alpha.to_string(), "1.0 to 4.0".into())?;
                let bits = p.edge_bits;
                check((1..=4).contains(&bits), "edge-bits", bits.to_string(), "1 to 4".into())?;
                let whole = p.layout == Layout::Compact || r.is_multiple_of(LANES);
                check(whole, "max-degree", r.to_string(), format!("multiples of {LANES} in the inline layout"))?;
                p.m
            }
            IndexParams::IvfPq(p) => {
                check(p.nlist >= 1 && p.nlist <= 1 << 24, "nlist", p.nlist.to_string(), "1 to 16777216".into())?;
                p.m
            }
        };
        check(m >= 1 && m <= dim, "m", m.to_string(), format!("1 to the dimension, {dim}"))
    }

    /// The parameters by name, for records and reports.
    pub fn by_name(&self) -> BTreeMap<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields.into_iter().filter(|(name, _)| name != "index").collect(),
            _ => BTreeMap::new(),
        }
    }
}

impl Effort {
    /// Search parameters by name, for records and reports.
    pub fn by_name(&self) -> BTreeMap<String, Value> {
        let pairs = match *self {
            Effort::Graph { search_list, navigate } => {
                let navigate = match navigate {
                    Navigate::Best => "best",
                    Navigate::Exact => "exact",
                    Navigate::Codes => "codes",
                };
                [("search_list", json!(search_list)), ("navigate", json!(navigate))]
            }
            Effort::Lists { nprobe, rerank } => [("nprobe", json!(nprobe)), ("rerank", json!(rerank))],
        };
        pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    /// A sensible setting for `k` neighbours where the user names none.
    pub fn default_for(kind: IndexKind, k: usize) -> Self {
        match kind {
            IndexKind::Vamana => Effort::Graph { search_list: (4 * k).max(40), navigate: Navigate::Best },
            IndexKind::IvfPq => Effort::Lists { nprobe: 32, rerank: Self::default_rerank(k) },
        }
    }

    /// Candidates re-ranked exactly where the user names no number.
    pub fn default_rerank(k: usize) -> usize {
        (12 * k).max(100)
    }
}
