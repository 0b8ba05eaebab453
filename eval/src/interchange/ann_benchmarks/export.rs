//! A run as result files of ann-benchmarks.
//!
//! In: a run folder, its data set, its indexes. Out: a file for each setting. A run folder keeps verdicts and no answers,
//! so the indexes answer once more; answers that are judged otherwise than the record says are refused.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use kiln_builder::{Effort, Index, Navigate, Residency, SearchParams, Searcher};
use kiln_datasets::{AnnResult, Dataset, RowSource, read_all};
use kiln_kernels::{Metric, Rows};
use ndarray::{Array2, s};
use serde_json::{Value, json};

use super::answer_distances;
use crate::answers::answer_all;
use crate::interchange::{InterchangeError, algo};
use crate::judge::Judge;
use crate::metrics;
use crate::record::{BuildRecord, Mode, RunData, SettingRecord};

/// What was exported, and what this format has no words for.
#[derive(Debug, Default)]
pub struct Exported {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Settings that were left out, and why.
    pub left_out: BTreeMap<&'static str, usize>,
}

/// Writes the settings of the run in `dir` below `out`.
///
/// # Errors
/// When `dataset` is not the run's, an index is missing or answers otherwise than recorded, or a file cannot be written.
pub fn export(dir: &Path, data: &RunData, dataset: &Dataset, out: &Path) -> Result<Exported, InterchangeError> {
    let header = &data.header.dataset;
    if dataset.fingerprint != header.fingerprint {
        return Err(InterchangeError::malformed(
            &dataset.path,
            format!(
                "it is not the data set of the run: its fingerprint is {}, the run's {}",
                dataset.fingerprint, header.fingerprint
            ),
            format!("give {} with --dataset", header.path),
        ));
    }
    let metric: Metric = header.metric.parse().map_err(|_| {
        InterchangeError::malformed(
            dir,
            format!("its metric is {:?}, which is unknown", header.metric),
            "use the Kiln that wrote it",
        )
    })?;
    let queries = first_queries(dataset, header.queries, dir)?;
    let mut exporter = Exporter {
        dir,
        data,
        metric,
        queries: &queries,
        base: dataset.base.as_ref(),
        judges: HashMap::new(),
        taken: HashSet::new(),
        exported: Exported::default(),
        out,
    };
    for build in &data.builds {
        exporter.build(build, dataset)?;
    }
    if exporter.exported.files.is_empty() {
        return Err(InterchangeError::malformed(
            dir,
            "it has no setting that ann-benchmarks has a word for (measured here, in mode latency-1 or batch)",
            "export as csv or parquet, or measure some with `kiln bench`",
        ));
    }
    Ok(exporter.exported)
}

/// The queries that a run searched with: the first of the set.
fn first_queries(dataset: &Dataset, count: usize, dir: &Path) -> Result<Rows, InterchangeError> {
    let queries = match &dataset.queries {
        Some(queries) => read_all(queries.as_ref(), |_| ())?,
        None => return Err(InterchangeError::malformed(&dataset.path, "it has no queries", "give the run's data set")),
    };
    if count > queries.len() {
        let problem = format!("its run searched with {count} queries, and the data set has {}", queries.len());
        return Err(InterchangeError::malformed(dir, problem, "give the run's data set"));
    }
    Ok(queries.view().slice(0..count).to_rows())
}

struct Exporter<'a> {
    dir: &'a Path,
    data: &'a RunData,
    metric: Metric,
    queries: &'a Rows,
    base: &'a dyn RowSource,
    /// By k; `None` where the data set has no truth that deep.
    judges: HashMap<usize, Option<Judge<'a>>>,
    taken: HashSet<PathBuf>,
    exported: Exported,
    out: &'a Path,
}

/// The answers of one effort: ids and recomputed distances, `(queries, k)`.
type Answered = (Array2<i64>, Array2<f32>);

impl<'a> Exporter<'a> {
    fn build(&mut self, build: &BuildRecord, dataset: &'a Dataset) -> Result<(), InterchangeError> {
        let settings: Vec<&SettingRecord> =
            self.data.settings.iter().filter(|setting| setting.build_key == build.key).collect();
        let mut wanted = Vec::new();
        for setting in settings {
            match left_out(build, setting) {
                Some(why) => *self.exported.left_out.entry(why).or_insert(0) += 1,
                None => wanted.push(setting),
            }
        }
        // What reads pass through does not change an answer, where the index lies may: codes navigate from the drive.
        for residency in [Residency::Memory, Residency::Ssd] {
            let here: Vec<&SettingRecord> =
                wanted.iter().copied().filter(|setting| setting.residency == residency.name()).collect();
            if here.is_empty() {
                continue;
            }
            let path = self.index_path(build)?;
            let searcher = Index::open(&path, residency)?;
            if searcher.meta().dataset_fingerprint != dataset.fingerprint || searcher.metric() != self.metric {
                let problem = format!("it is an index of {}, not of the run's data", searcher.meta().dataset);
                return Err(InterchangeError::malformed(&path, problem, "restore the index that the run measured"));
            }
            let mut answered: HashMap<String, Answered> = HashMap::new();
            for setting in here {
                let name = json!(setting.params).to_string();
                if !answered.contains_key(&name) {
                    answered.insert(name.clone(), self.answer(&searcher, setting, dataset)?);
                }
                self.write(build, setting, &answered[&name])?;
            }
        }
        Ok(())
    }

    /// The index where its record says, or, where the run folder was moved, in it.
    fn index_path(&self, build: &BuildRecord) -> Result<PathBuf, InterchangeError> {
        let recorded = PathBuf::from(&build.path);
        if recorded.exists() {
            return Ok(recorded);
        }
        let moved = recorded.file_name().map(|name| self.dir.join("indexes").join(name));
        moved.filter(|path| path.exists()).ok_or_else(|| {
            InterchangeError::malformed(
                &recorded,
                "the index that answered is gone, and a run folder keeps no answers",
                "build it again with the run's command, or export as csv, parquet or cuvs-bench",
            )
        })
    }

    fn answer(
        &mut self,
        searcher: &Searcher,
        setting: &SettingRecord,
        dataset: &'a Dataset,
    ) -> Result<Answered, InterchangeError> {
        let effort = effort(&setting.params).ok_or_else(|| {
            let problem =
                format!("setting {} has parameters {}, which search nothing", setting.key, json!(setting.params));
            InterchangeError::malformed(self.dir, problem, "use the Kiln that wrote it")
        })?;
        let ids = answer_all(searcher, &self.queries.view(), &SearchParams { k: setting.k, effort })?.ids;
        if let Some(judge) = self.judge(setting.k, dataset)? {
            let judged = judge.judge(ids.view())?;
            if judged.strict_hits != setting.answers.strict_hits {
                return Err(InterchangeError::malformed(
                    searcher.path(),
                    format!(
                        "it answers otherwise than the run recorded (recall {:.4}, recorded {:.4}; {})",
                        judged.recall().unwrap_or(0.0),
                        metrics::recall(setting).unwrap_or(0.0),
                        json!(setting.params)
                    ),
                    "the index was built anew since, or by another Kiln: measure it again with `kiln bench`",
                ));
            }
        }
        let distances = answer_distances(self.base, &self.queries.view(), self.metric, ids.view())?;
        Ok((ids, distances))
    }

    fn judge(&mut self, k: usize, dataset: &'a Dataset) -> Result<Option<&Judge<'a>>, InterchangeError> {
        if !self.judges.contains_key(&k) {
            let truth = dataset.truth.as_ref().filter(|truth| truth.depth() >= k);
            let judge = match truth {
                Some(truth) => {
                    let ids = truth.ids.slice(s![..self.queries.len(), ..]);
                    Some(Judge::new(self.base, &self.queries.view(), ids, self.metric, k)?)
                }
                None => None,
            };
            self.judges.insert(k, judge);
        }
        Ok(self.judges[&k].as_ref())
    }

    fn write(
        &mut self,
        build: &BuildRecord,
        setting: &SettingRecord,
        answered: &Answered,
    ) -> Result<(), InterchangeError> {
        let Some(result) = result(self.data, build, setting, answered) else {
            *self.exported.left_out.entry("no pass kept the time of each query").or_insert(0) += 1;
            return Ok(());
        };
        let mut arguments = json!([build.params, setting.params]);
        let mut path = result.relative_path(&arguments.to_string());
        if self.taken.contains(&path)
            && let Value::Array(list) = &mut arguments
        {
            // Two builds of one kind and parameters: on another device, say.
            list.push(json!(build.key));
            path = result.relative_path(&arguments.to_string());
        }
        self.taken.insert(path.clone());
        let path = self.out.join(path);
        result.write(&path)?;
        self.exported.files.push(path);
        Ok(())
    }
}

/// Why a setting is left out, if it is.
fn left_out(build: &BuildRecord, setting: &SettingRecord) -> Option<&'static str> {
    match setting.mode {
        _ if setting.is_foreign() => Some("imported: copy the file that it came from"),
        _ if !build.is_kilns() => Some("of another library: its index is gone, and answers are not kept"),
        _ if setting.failure.is_some() => Some("failed"),
        Mode::Throughput { .. } => Some("throughput: ann-benchmarks knows single queries and batches"),
        Mode::BatchDevice { .. } => Some("of a device: answers are not kept, and the processor's may differ"),
        Mode::Latency1 | Mode::Batch { .. } => None,
    }
}

/// The effort that search parameters name.
fn effort(params: &BTreeMap<String, Value>) -> Option<Effort> {
    let count = |name: &str| params.get(name)?.as_u64().map(|count| count as usize);
    if let Some(search_list) = count("search_list") {
        let navigate = match params.get("navigate").and_then(Value::as_str) {
            Some("exact") => Navigate::Exact,
            Some("codes") => Navigate::Codes,
            Some("best") | None => Navigate::Best,
            Some(_) => return None,
        };
        return Some(Effort::Graph { search_list, navigate });
    }
    Some(Effort::Lists { nprobe: count("nprobe")?, rerank: count("rerank")? })
}

/// A setting as a result file; `None` where no pass kept what it needs.
fn result(data: &RunData, build: &BuildRecord, setting: &SettingRecord, answered: &Answered) -> Option<AnnResult> {
    let (ids, distances) = answered;
    let queries = ids.nrows();
    let batch_mode = setting.mode.is_batch();
    // Seconds a query of each pass that says so.
    let mean_seconds: Vec<f64> = if batch_mode {
        setting.runs.iter().map(|run| run.seconds / queries as f64).collect()
    } else {
        let timed = setting.runs.iter().filter(|run| run.latency_us.len() == queries);
        timed.map(|run| run.latency_us.iter().map(|&us| f64::from(us)).sum::<f64>() / 1e6 / queries as f64).collect()
    };
    let best_search_time = mean_seconds.iter().copied().reduce(f64::min)?;
    let times = if batch_mode {
        vec![*mean_seconds.last()? as f32; queries]
    } else {
        // Its runner keeps the times of the last pass.
        let last = setting.runs.iter().rfind(|run| run.latency_us.len() == queries)?;
        last.latency_us.iter().map(|&us| (f64::from(us) / 1e6) as f32).collect()
    };
    let passes = mean_seconds.len() as u64;
    let computed: u64 = setting.answers.distances.iter().map(|&count| u64::from(count)).sum();
    Some(AnnResult {
        algo: chart_line(build, setting),
        dataset: data.header.dataset.name.clone(),
        name: format!("{}({})", build.index, named(build.params.iter().chain(&setting.params))),
        distance: match data.header.dataset.metric.as_str() {
            "l2" => "euclidean",
            "cosine" => "angular",
            _ => "dot",
        }
        .to_string(),
        count: setting.k,
        batch_mode,
        run_count: passes,
        best_search_time,
        build_time: build.total_seconds,
        index_size: setting.serving_bytes.unwrap_or(build.serving_bytes) as f64 / 1024.0,
        candidates: ids.iter().filter(|&&id| id >= 0).count() as f64 / queries as f64,
        expect_extra: false,
        dist_comps: (computed > 0).then(|| (computed * passes) as f64),
        plotted_recall: None,
        times,
        neighbors: ids.clone(),
        distances: distances.clone(),
    })
}

/// One line on its charts: `kiln-vamana`, `kiln-ivf-pq-ssd-cold`, `...-2-threads`.
fn chart_line(build: &BuildRecord, setting: &SettingRecord) -> String {
    let algo = algo(build, setting);
    match setting.mode {
        Mode::Batch { threads } if threads > 1 => format!("{algo}-{threads}-threads"),
        _ => algo,
    }
}

fn named<'p>(params: impl Iterator<Item = (&'p String, &'p Value)>) -> String {
    params.map(|(name, value)| format!("{name}={}", value.to_string().trim_matches('"'))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn efforts_are_read_back() {
        for of in [
            Effort::Graph { search_list: 40, navigate: Navigate::Best },
            Effort::Graph { search_list: 10, navigate: Navigate::Codes },
            Effort::Graph { search_list: 10, navigate: Navigate::Exact },
            Effort::Lists { nprobe: 8, rerank: 100 },
        ] {
            assert_eq!(effort(&of.by_name()), Some(of));
        }
        assert_eq!(effort(&BTreeMap::new()), None);
    }
}
