//! Result files of ann-benchmarks: one search setting of one algorithm, as its runner stores it and its plot program
//! reads it.
//!
//! | where | what |
//! |---|---|
//! | attributes `algo`, `dataset`, `name`, `distance` | text |
//! | `count` | k |
//! | `batch_mode`, `expect_extra` | booleans |
//! | `run_count`, `best_search_time` | passes, and the least mean time of a query among them, in seconds |
//! | `build_time`, `index_size` | seconds; kB of 1,024 bytes |
//! | `candidates` | answers to a query, mean |
//! | `dist_comps` | distance computations of all passes together, where they were counted |
//! | `times` f4 (queries) | seconds of each query of one pass; in batch mode the pass divided by its queries |
//! | `neighbors` i4 (queries, k) | row numbers, -1 where there are fewer |
//! | `distances` f4 (queries, k) | Euclidean (not squared), 1 - cos, ..., infinite where there are fewer |
//!
//! In: such a file of any program, whose strings and numbers may be of any kind and of which the path tells what
//! attributes do not. Out: an [`AnnResult`]; and the way back, to the letter.

use std::path::{Path, PathBuf};

use hdf5::types::TypeDescriptor;
use ndarray::Array2;

use crate::atomic::AtomicFile;
use crate::error::DatasetError;
use crate::hdf5_attributes::{number_attribute, text_attribute, write_scalar, write_text};
use crate::hdf5_file::{descriptor, refused};
use crate::hdf5_rows::is_integer;
use crate::hdf5_write::failure;

/// The ending of the folder of an algorithm whose queries were given all at once.
const BATCH: &str = "-batch";
/// The longest slug of a file's name: with `.hdf5.partial` it must fit the 255 bytes of a file system.
const SLUG_BYTES: usize = 240;
const REMEDY: &str = "give a result file of ann-benchmarks (results/DATASET/K/ALGO/*.hdf5)";

/// One result file.
#[derive(Debug, Clone, PartialEq)]
pub struct AnnResult {
    /// The algorithm, without `-batch`.
    pub algo: String,
    /// The data set.
    pub dataset: String,
    /// The setting in words.
    pub name: String,
    /// `euclidean`, `angular`, ...
    pub distance: String,
    /// Neighbours asked for, k.
    pub count: usize,
    /// All queries were given at once.
    pub batch_mode: bool,
    /// Passes over the queries.
    pub run_count: u64,
    /// Seconds a query of the fastest pass.
    pub best_search_time: f64,
    /// Seconds.
    pub build_time: f64,
    /// kB.
    pub index_size: f64,
    /// Answers a query, mean.
    pub candidates: f64,
    /// Whether the algorithm was asked for more figures than usual.
    pub expect_extra: bool,
    /// Distance computations of all passes together.
    pub dist_comps: Option<f64>,
    /// Recall as its plot program has computed and left it in the file (`metrics/knn`, attribute `mean`).
    pub plotted_recall: Option<f64>,
    /// Seconds of each query.
    pub times: Vec<f32>,
    /// Row numbers `(queries, k)`.
    pub neighbors: Array2<i64>,
    /// Their distances `(queries, k)`.
    pub distances: Array2<f32>,
}

impl AnnResult {
    /// Where its runner puts the file of this result: `results/DATASET/K/ALGO[-batch]/SLUG.hdf5`. `arguments` is the
    /// JSON, keys sorted, of the list of what made and what searched the index.
    pub fn relative_path(&self, arguments: &str) -> PathBuf {
        let batch = if self.batch_mode { BATCH } else { "" };
        ["results", &self.dataset, &self.count.to_string(), &format!("{}{batch}", self.algo)]
            .iter()
            .collect::<PathBuf>()
            .join(format!("{}.hdf5", slug(arguments)))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When an id does not fit 32 bits, matrices differ in shape, or writing fails.
    pub fn write(&self, out: &Path) -> Result<(), DatasetError> {
        if let Some(id) = self.neighbors.iter().find(|&&id| i32::try_from(id).is_err()) {
            return Err(DatasetError::invalid(
                out,
                format!("row number {id} does not fit the format's 32 bits"),
                "export as csv or parquet, which state figures and no rows",
            ));
        }
        let shape = (self.times.len(), self.count);
        if self.neighbors.dim() != shape || self.distances.dim() != shape {
            let problem = format!(
                "{} times, neighbours of {:?} and distances of {:?} do not belong together",
                self.times.len(),
                self.neighbors.dim(),
                self.distances.dim()
            );
            return Err(DatasetError::invalid(out, problem, "give one row of each a query"));
        }
        if let Some(folder) = out.parent() {
            std::fs::create_dir_all(folder).map_err(DatasetError::io(folder))?;
        }
        let target = AtomicFile::new(out);
        let failed = failure(target.partial());
        let file = hdf5::File::create(target.partial()).map_err(&failed)?;
        self.fill(&file).and_then(|()| file.flush()).and_then(|()| file.close()).map_err(&failed)?;
        target.commit()
    }

    fn fill(&self, file: &hdf5::File) -> hdf5::Result<()> {
        let algo = if self.batch_mode { format!("{}{BATCH}", self.algo) } else { self.algo.clone() };
        write_text(file, "algo", &algo)?;
        write_text(file, "dataset", &self.dataset)?;
        write_text(file, "name", &self.name)?;
        write_text(file, "distance", &self.distance)?;
        write_scalar(file, "count", self.count as i64)?;
        write_scalar(file, "batch_mode", self.batch_mode)?;
        write_scalar(file, "expect_extra", self.expect_extra)?;
        write_scalar(file, "run_count", self.run_count as i64)?;
        write_scalar(file, "best_search_time", self.best_search_time)?;
        write_scalar(file, "build_time", self.build_time)?;
        write_scalar(file, "index_size", self.index_size)?;
        write_scalar(file, "candidates", self.candidates)?;
        if let Some(computations) = self.dist_comps {
            write_scalar(file, "dist_comps", computations)?;
        }
        file.new_dataset_builder().with_data(&self.times).create("times")?;
        // The caller has checked that they fit.
        file.new_dataset_builder().with_data(&self.neighbors.mapv(|id| id as i32)).create("neighbors")?;
        file.new_dataset_builder().with_data(&self.distances).create("distances")?;
        Ok(())
    }

    /// Reads a result file.
    ///
    /// # Errors
    /// When it is damaged or no result file, its matrices do not belong together, or a time is no positive number.
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        // HDF5 reports a missing file in many words: the system says it better.
        std::fs::File::open(path).map_err(DatasetError::io(path))?;
        let file = hdf5::File::open(path).map_err(refused(path, "it cannot be opened"))?;
        let held = file.member_names().unwrap_or_default();
        if let Some(missing) = ["times", "neighbors", "distances"].iter().find(|name| !file.link_exists(name)) {
            let problem = format!("it has no matrix `{missing}` (it has: {})", held.join(", "));
            return Err(DatasetError::invalid(path, problem, REMEDY));
        }
        let times: Vec<f32> =
            numbers(&file, path, "times", 1)?.read_raw().map_err(refused(path, "`times` cannot be read"))?;
        let neighbors = numbers(&file, path, "neighbors", 2)?;
        let stored = descriptor(&neighbors, path, "neighbors")?;
        if !is_integer(&stored) {
            return Err(DatasetError::invalid(path, format!("`neighbors` holds {stored}, not integers"), REMEDY));
        }
        let neighbors: Array2<i64> = neighbors.read_2d().map_err(refused(path, "`neighbors` cannot be read"))?;
        let distances: Array2<f32> =
            numbers(&file, path, "distances", 2)?.read_2d().map_err(refused(path, "`distances` cannot be read"))?;
        let text = |name: &str| text_attribute(&file, path, name);
        let number = |name: &str| number_attribute(&file, path, name);
        let folder = |up: usize| {
            let folder = path.ancestors().nth(up).and_then(Path::file_name);
            folder.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let algo = text("algo")?.unwrap_or_else(|| folder(1));
        let batch_mode = number("batch_mode")?.map_or(algo.ends_with(BATCH), |set| set != 0.0);
        let mean = times.iter().map(|&s| f64::from(s)).sum::<f64>() / times.len().max(1) as f64;
        let read = Self {
            dataset: text("dataset")?.unwrap_or_else(|| folder(3)),
            name: text("name")?.unwrap_or_else(|| algo.clone()),
            distance: text("distance")?.unwrap_or_default(),
            count: number("count")?.map_or(neighbors.ncols(), |count| count as usize),
            run_count: number("run_count")?.map_or(1, |count| count as u64),
            best_search_time: number("best_search_time")?.unwrap_or(mean),
            build_time: number("build_time")?.unwrap_or(0.0),
            index_size: number("index_size")?.unwrap_or(0.0),
            candidates: number("candidates")?.unwrap_or(0.0),
            expect_extra: number("expect_extra")?.is_some_and(|set| set != 0.0),
            dist_comps: number("dist_comps")?,
            plotted_recall: plotted_recall(&file),
            algo: algo.strip_suffix(BATCH).unwrap_or(&algo).to_string(),
            batch_mode,
            times,
            neighbors,
            distances,
        };
        read.checked(path)
    }

    fn checked(self, path: &Path) -> Result<Self, DatasetError> {
        let refuse = |problem: String| Err(DatasetError::invalid(path, problem, REMEDY));
        let (queries, k) = self.neighbors.dim();
        if queries == 0 || k == 0 {
            return refuse(format!("it holds answers of {queries} queries and depth {k}"));
        }
        if self.times.len() != queries || self.distances.dim() != (queries, k) {
            return refuse(format!(
                "it has {} times, neighbours of {:?} and distances of {:?}, which do not belong together",
                self.times.len(),
                [queries, k],
                self.distances.shape()
            ));
        }
        if self.count == 0 || self.count > k {
            return refuse(format!("its attribute `count` is {}, but it lists {k} neighbours a query", self.count));
        }
        if let Some((query, time)) =
            self.times.iter().enumerate().find(|(_, time)| !(time.is_finite() && **time >= 0.0))
        {
            return refuse(format!("query {query} took {time} s, which is no time"));
        }
        if !(self.best_search_time.is_finite() && self.best_search_time > 0.0) {
            return refuse(format!("its attribute `best_search_time` is {}, which is no time", self.best_search_time));
        }
        for (name, value) in [("build_time", self.build_time), ("index_size", self.index_size)] {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(format!("its attribute `{name}` is {value}, which is no measurement"));
            }
        }
        Ok(self)
    }
}

/// The name of the file of these arguments: every run of characters that are not ASCII letters, digits or `_` as one
/// `_`, without those at the ends. Of a slug longer than a file's name may be, the end is kept.
fn slug(arguments: &str) -> String {
    let mut slug = String::with_capacity(arguments.len());
    for c in arguments.chars() {
        let mut escaped = [0; 2];
        if c.is_ascii_alphanumeric() || c == '_' {
            slug.push(c);
        } else if c.is_ascii() {
            if !slug.ends_with(SEPARATOR) {
                slug.push(SEPARATOR);
            }
        } else {
            // Its JSON escapes what is not ASCII; the backslash is no word character.
            for unit in c.encode_utf16(&mut escaped) {
                if !slug.ends_with(SEPARATOR) {
                    slug.push(SEPARATOR);
                }
                slug.push_str(&format!("u{unit:04x}"));
            }
        }
    }
    let slug = slug.replace(SEPARATOR, "_").trim_matches('_').to_string();
    if slug.len() > SLUG_BYTES { slug[slug.len() - SLUG_BYTES..].to_string() } else { slug }
}

/// Stands for a run of non-word characters until the slug is whole: an underscore of the text itself is no part of one.
const SEPARATOR: char = '\u{1}';

/// The matrix `name` of numbers, which must have so many dimensions.
fn numbers(file: &hdf5::File, path: &Path, name: &str, dimensions: usize) -> Result<hdf5::Dataset, DatasetError> {
    let dataset = file.dataset(name).map_err(refused(path, &format!("`{name}` cannot be opened")))?;
    let stored = descriptor(&dataset, path, name)?;
    if !matches!(stored, TypeDescriptor::Float(_)) && !is_integer(&stored) {
        return Err(DatasetError::invalid(path, format!("`{name}` holds {stored}, not numbers"), REMEDY));
    }
    if dataset.ndim() != dimensions {
        let problem = format!("`{name}` has shape {:?}, not {dimensions} dimensions", dataset.shape());
        return Err(DatasetError::invalid(path, problem, REMEDY));
    }
    Ok(dataset)
}

/// What the plot program has left in the file; a file that it has not seen has none.
fn plotted_recall(file: &hdf5::File) -> Option<f64> {
    if !file.link_exists("metrics") {
        return None;
    }
    let metrics = file.group("metrics").ok()?;
    if !metrics.link_exists("knn") {
        return None;
    }
    let mean: f64 = metrics.group("knn").ok()?.attr("mean").ok()?.read_scalar().ok()?;
    (0.0..=1.0).contains(&mean).then_some(mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_those_of_the_runner() {
        // Each pair was made by re.sub(r'\W+', '_', json.dumps(arguments, sort_keys=True)).strip('_') of Python.
        for (arguments, expected) in [
            (r#"["angular", {"M": 12, "efConstruction": 500}, [10]]"#, "angular_M_12_efConstruction_500_10"),
            (r#"[{"alpha": 1.2, "max_degree": 32}, {"search_list": 40}]"#, "alpha_1_2_max_degree_32_search_list_40"),
            (r#"["_a", -1.5, null]"#, "a_1_5_null"),
            (r#"["a_", "b"]"#, "a__b"),
            ("[\"größe\"]", "gr_u00f6_u00dfe"),
            ("[]", ""),
        ] {
            assert_eq!(slug(arguments), expected, "{arguments}");
        }
        let long = format!("[\"{}z\"]", "a".repeat(500));
        assert_eq!((slug(&long).len(), slug(&long).ends_with("az")), (SLUG_BYTES, true));
    }
}
