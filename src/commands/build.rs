//! `kiln build`: one index file from one data set.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use kiln_builder::{BuildReport, BuildRequest, GraphMethod, IndexKind, IndexParams, IvfPqParams, Layout};
use kiln_datasets::RowSource;
use kiln_kernels::codec::CodecKind;
use kiln_kernels::pq::CodeBits;
use serde_json::{Map, Value, json};

use super::budget::BudgetArgs;
use super::device::DeviceArgs;
use super::{IndexArg, MetricArg, UsageError, bytes, metric_of, open_dataset, print, with_threads, write_json};
use crate::terminal::TerminalProgress;

const EXAMPLES: &str = "\
Examples:
  kiln build --dataset sift-128-euclidean.hdf5 --index vamana --out sift.kiln
  kiln build --dataset base.fbin --metric ip --index ivf-pq --nlist 4096 --m 48 --out base.kiln
  kiln build --dataset billion.u8bin --metric l2 --index vamana --out billion.kiln --memory-budget 64GiB --dry-run
  kiln build --dataset synth:rows=100000000,dim=128,dtype=u8,lid=12 --index ivf-pq --out s.kiln --memory-budget 4GiB

Parameters that are not given are derived from the data and printed.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The data set: a file, the name of a fetched set, demo (which is in the program), or rows that are made as they are read:
    /// synth:rows=N,dim=D,dtype=u8,lid=L,seed=S (the last three may be left out)
    #[arg(long, value_name = "FILE|NAME")]
    dataset: String,
    /// The kind of index
    #[arg(long, value_enum)]
    index: IndexArg,
    /// The index file to write
    #[arg(long, value_name = "X.kiln")]
    out: PathBuf,
    /// How rows are compared; required where the data set does not say
    #[arg(long, value_enum)]
    metric: Option<MetricArg>,
    #[command(flatten)]
    params: ParamArgs,
    /// Store f32 rows as f32 even where u8, i8 or f16 holds every value exactly
    #[arg(long)]
    keep_dtype: bool,
    /// Threads to use [default: all]
    #[arg(long, value_name = "T")]
    threads: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Write what was built, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How a graph is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MethodArg {
    /// All pairs of many small overlapping leaves, pruned
    Partition,
    /// Vamana as published, in batches
    Insert,
}

/// How nodes lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LayoutArg {
    /// Vector and neighbours: the smallest
    Compact,
    /// Vector, neighbours and their codes: the fastest in memory, and needs almost none on a drive
    Inline,
}

/// Build parameters; each replaces a derived default.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct ParamArgs {
    /// Vamana: how the graph is built [default: partition]
    #[arg(long, value_enum, help_heading = "Vamana")]
    method: Option<MethodArg>,
    /// Vamana: edges a node at most, R [default: 64]
    #[arg(long, value_name = "R", help_heading = "Vamana")]
    max_degree: Option<usize>,
    /// Vamana: candidates kept while inserting, L [default: 100]
    #[arg(long, value_name = "L", help_heading = "Vamana")]
    build_list: Option<usize>,
    /// Vamana: occlusion factor of robust prune [default: 1.2]
    #[arg(long, value_name = "A", help_heading = "Vamana")]
    alpha: Option<f64>,
    /// Vamana: how nodes lie in the file [default: compact]
    #[arg(long, value_enum, help_heading = "Vamana")]
    layout: Option<LayoutArg>,
    /// Vamana, inline layout: bits a coordinate of the neighbours' codes, 1 to 4 [default: 2]
    #[arg(long, value_name = "B", help_heading = "Vamana")]
    edge_bits: Option<u8>,
    /// IVF-PQ: inverted lists [default: about 2 sqrt(n), a power of two]
    #[arg(long, value_name = "N", help_heading = "IVF-PQ")]
    nlist: Option<usize>,
    /// IVF-PQ: how rows are coded: pq4 (4 bits a sub-space, looked up in registers), pq (8 or 4 bits), rabitq1 to
    /// rabitq8 (bits a coordinate), sq8 [default: pq4, with --bits pq]
    #[arg(long, value_name = "CODES", help_heading = "IVF-PQ")]
    codec: Option<CodecKind>,
    /// IVF-PQ: code every row in a second list too (SOAR): fewer lists for equal recall, twice the codes
    #[arg(long, help_heading = "IVF-PQ")]
    soar: bool,
    /// Sub-spaces of the codes [default: dim / 4, for pq4 dim / 2]
    #[arg(long, value_name = "M", help_heading = "Codes")]
    m: Option<usize>,
    /// Bits a sub-space of pq codes, 8 or 4 [default: 8]
    #[arg(long, value_name = "B", help_heading = "Codes", value_parser = parse_bits)]
    bits: Option<CodeBits>,
    /// Try a rotation (OPQ) and keep it if it lowers the held-out error
    #[arg(long, help_heading = "Codes")]
    opq: bool,
    /// Seed of every choice [default: 42]
    #[arg(long, value_name = "S", help_heading = "Codes")]
    seed: Option<u64>,
}

fn parse_bits(text: &str) -> Result<CodeBits, String> {
    text.parse::<u8>().map_err(|_| "use 8 or 4".to_string()).and_then(CodeBits::try_from)
}

impl ParamArgs {
    /// Parameters by name, read as the flags of these names are: `max_degree` as `--max-degree`.
    pub fn of_names(values: &BTreeMap<String, Value>) -> Result<Self, UsageError> {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            params: ParamArgs,
        }
        let flag = |(name, value): (&String, &Value)| {
            let flag = format!("--{}", name.replace('_', "-"));
            match value {
                Value::Bool(on) => on.then_some(flag),
                Value::String(text) => Some(format!("{flag}={text}")),
                other => Some(format!("{flag}={other}")),
            }
        };
        let words = std::iter::once("kiln".to_string()).chain(values.iter().filter_map(flag));
        Alone::try_parse_from(words).map(|alone| alone.params).map_err(|error| {
            // The first line says what is wrong, the others how the command line is used.
            let told = error.to_string();
            UsageError(told.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string())
        })
    }

    /// The seed given, or the default of every index.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(42)
    }

    /// Whether a parameter was given that applies to indexes of one kind alone.
    pub fn any_of(&self, kind: IndexKind) -> bool {
        match kind {
            IndexKind::Vamana => {
                let graph = self.method.is_some() || self.max_degree.is_some() || self.build_list.is_some();
                graph || self.alpha.is_some() || self.layout.is_some() || self.edge_bits.is_some()
            }
            IndexKind::IvfPq => self.nlist.is_some() || self.codec.is_some() || self.soar,
        }
    }

    /// Only what applies to indexes of one kind, where a command builds several.
    pub fn of_kind(&self, kind: IndexKind) -> Self {
        match kind {
            IndexKind::Vamana => Self { nlist: None, codec: None, soar: false, ..self.clone() },
            IndexKind::IvfPq => Self {
                method: None,
                max_degree: None,
                build_list: None,
                alpha: None,
                layout: None,
                edge_bits: None,
                ..self.clone()
            },
        }
    }

    /// Defaults for this data, with what the user gave in their place. A parameter of the other kind of
    /// index is refused, not ignored.
    pub fn resolve(&self, kind: IndexKind, source: &dyn RowSource) -> Result<IndexParams, UsageError> {
        self.resolve_from(IndexParams::defaults(kind, source.len(), source.dim()), source)
    }

    /// These parameters, with what the user gave in their place.
    pub fn resolve_from(&self, mut params: IndexParams, source: &dyn RowSource) -> Result<IndexParams, UsageError> {
        let kind = params.kind();
        let foreign: &[(&str, bool)] = match kind {
            IndexKind::Vamana => {
                &[("--nlist", self.nlist.is_some()), ("--codec", self.codec.is_some()), ("--soar", self.soar)]
            }
            IndexKind::IvfPq => &[
                ("--method", self.method.is_some()),
                ("--max-degree", self.max_degree.is_some()),
                ("--build-list", self.build_list.is_some()),
                ("--alpha", self.alpha.is_some()),
                ("--layout", self.layout.is_some()),
                ("--edge-bits", self.edge_bits.is_some()),
            ],
        };
        if let Some((name, _)) = foreign.iter().find(|(_, given)| *given) {
            return Err(UsageError(format!("{name} does not apply to a {kind} index: remove it")));
        }
        match &mut params {
            IndexParams::Vamana(p) => {
                p.method = match self.method {
                    Some(MethodArg::Partition) => GraphMethod::Partition,
                    Some(MethodArg::Insert) => GraphMethod::Insert,
                    None => p.method,
                };
                p.max_degree = self.max_degree.unwrap_or(p.max_degree);
                p.build_list = self.build_list.unwrap_or(p.build_list);
                p.alpha = self.alpha.unwrap_or(p.alpha);
                p.layout = match self.layout {
                    Some(LayoutArg::Inline) => Layout::Inline,
                    Some(LayoutArg::Compact) => Layout::Compact,
                    None => p.layout,
                };
                if p.layout == Layout::Compact && self.edge_bits.is_some() {
                    return Err(UsageError("--edge-bits applies to --layout inline: add that or remove it".into()));
                }
                if p.layout == Layout::Inline && (self.m.is_some() || self.bits.is_some() || self.opq) {
                    let apart = "--m, --bits and --opq are of codes that --layout inline does not have";
                    return Err(UsageError(format!("{apart}: remove them, or give --edge-bits")));
                }
                p.edge_bits = self.edge_bits.unwrap_or(p.edge_bits);
                (p.m, p.bits) = (self.m.unwrap_or(p.m), self.bits.unwrap_or(p.bits));
                (p.opq, p.seed) = (self.opq || p.opq, self.seed.unwrap_or(p.seed));
            }
            IndexParams::IvfPq(p) => {
                p.nlist = self.nlist.unwrap_or(p.nlist);
                // Bits are a matter of plain product codes: who names them wants those.
                let codec = self.codec.unwrap_or(if self.bits.is_some() { CodecKind::Pq } else { p.codec });
                let as_before = codec == p.codec;
                p.codec = codec;
                p.bits = match (p.codec, self.bits) {
                    (CodecKind::Pq, None) if as_before => p.bits,
                    (CodecKind::Pq, bits) => bits.unwrap_or(CodeBits::Eight),
                    (_, None) => p.bits,
                    (codec, Some(_)) => {
                        return Err(UsageError(format!("--bits does not apply to {codec} codes: remove it")));
                    }
                };
                p.soar |= self.soar;
                p.m = self.m.unwrap_or(if as_before { p.m } else { IvfPqParams::default_m(p.codec, source.dim()) });
                (p.opq, p.seed) = (self.opq || p.opq, self.seed.unwrap_or(p.seed));
            }
        }
        params.validate(source.dim()).map_err(|error| UsageError(error.to_string()))?;
        Ok(params)
    }
}

/// Parameters in one line, for the log.
pub fn describe(params: &IndexParams) -> String {
    let pairs: Vec<String> = params
        .by_name()
        .iter()
        .map(|(name, value)| format!("{name} {}", value.to_string().trim_matches('"')))
        .collect();
    format!("{}: {}", params.kind(), pairs.join(", "))
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let dataset = open_dataset(&args.dataset)?;
    let metric = metric_of(args.metric, &dataset)?;
    let params = args.params.resolve(args.index.into(), dataset.base.as_ref())?;
    tracing::info!("{}, metric {metric}", describe(&params));
    let request = BuildRequest {
        source: dataset.base.as_ref(),
        dataset_name: dataset.name.clone(),
        dataset_fingerprint: dataset.fingerprint.clone(),
        metric,
        params,
        keep_dtype: args.keep_dtype,
        out: &args.out,
    };
    let progress = TerminalProgress::new();
    let report = with_threads(args.threads, || -> anyhow::Result<Option<BuildReport>> {
        let device = args.device.open()?;
        args.budget.build(&device, &request, &progress)
    })??;
    drop(progress);
    let Some(report) = report else { return Ok(()) };
    if let Some(path) = &args.json {
        write_json(path, &document(&report))?;
    }
    if args.json.as_deref() != Some("-".as_ref()) {
        print(&format!(
            "{}: {}, {:.1} s ({:.1} CPU-s), peak memory {}",
            report.path.display(),
            bytes(report.index_bytes),
            report.total_seconds,
            report.cpu_seconds,
            bytes(report.peak_rss_bytes)
        ))?;
    }
    Ok(())
}

/// The JSON document of a build.
pub fn document(report: &BuildReport) -> Value {
    let mut seconds: Map<String, Value> =
        report.stage_seconds.iter().map(|(stage, s)| (stage.clone(), json!(s))).collect();
    seconds.insert("total".into(), json!(report.total_seconds));
    let mut document = json!({
        "index": report.index.name(),
        "path": report.path,
        "params": report.params.by_name(),
        "dataset": report.dataset,
        "n": report.n,
        "dim": report.dim,
        "metric": report.metric,
        "dtype": report.dtype,
        "device": report.device,
        "threads": report.threads,
        "seconds": seconds,
        "cpu_seconds": report.cpu_seconds,
        "peak_rss_bytes": report.peak_rss_bytes,
        "peak_anonymous_bytes": report.peak_anonymous_bytes,
        "peak_allocated_bytes": report.peak_allocated_bytes,
        "index_bytes": report.index_bytes,
    });
    if let Some(durable) = &report.durable {
        document["durable"] = json!(durable);
    }
    document
}
