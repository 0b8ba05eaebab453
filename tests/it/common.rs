//! What the tests of the program share: running it in a folder of its own, and reading what it writes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in which the program runs, and which goes with the test.
pub struct Place(TempDir);

/// What a run of the program came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).expect("written");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).expect("text")
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Names of what lies in the folder, or in one of its folders.
    pub fn names(&self, folder: &str) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.path(folder)).expect("readable");
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// Runs `kiln` here with these arguments, apart from the data sets and settings of whoever runs the tests.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[])
    }

    /// The same with some environment.
    pub fn run_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Ran {
        let output = assert_cmd::cargo::cargo_bin_cmd!("kiln")
            .envs(environment.iter().copied())
            .args(args)
            .current_dir(self.0.path())
            .env("KILN_DATA", self.path("cache"))
            .env_remove("KILN_LOG")
            .output()
            .expect("the program runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program prints text");
        let ran = Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        // Nothing here is a terminal: no colours, no bars.
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!ran.out.contains(control) && !ran.err.contains(control), "control characters: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        ran
    }

    /// Runs what must succeed, and gives back standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "kiln {}: {}", args.join(" "), ran.err);
        ran.out
    }

    /// Runs what must fail with this exit code and print no result, and gives back the line of the error.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(code), "kiln {}: {}{}", args.join(" "), ran.out, ran.err);
        assert_eq!(ran.out, "", "kiln {}", args.join(" "));
        let line = ran.err.lines().find(|line| line.starts_with("error: ")).map(str::to_string);
        line.unwrap_or_else(|| panic!("no error is told: {}", ran.err))
    }

    /// A synthetic set of 500 rows, 8 coordinates and 20 queries with truth of depth 20, as `set.hdf5`; its rows alone
    /// as `base.fbin`, its queries as `query.fbin`.
    pub fn with_set(self) -> Self {
        let size = ["--rows", "500", "--dim", "8", "--lid", "4"];
        let whole = ["--queries", "20", "--k", "20", "--out", "set.hdf5"];
        self.ok(&[&["datasets", "synth"], &size[..], &whole[..]].concat());
        self.ok(&["datasets", "convert", "set.hdf5", "base.fbin"]);
        self.ok(&["datasets", "convert", "set.hdf5", "query.fbin", "--queries"]);
        self
    }

    /// The same with an index of each kind, `vamana.kiln` and `ivf-pq.kiln`.
    pub fn with_indexes(self) -> Self {
        let place = self.with_set();
        for kind in KINDS {
            place.ok(&["build", "--dataset", "set.hdf5", "--index", kind, "--out", &format!("{kind}.kiln")]);
        }
        place
    }
}

pub const KINDS: [&str; 2] = ["vamana", "ivf-pq"];

/// The demo's file in the repository.
pub fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/data/photosift-10k-128-euclidean.hdf5")
}

/// Asserts that a message holds all of these.
pub fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// The keys of an object, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Asserts that an object has these keys and no others.
pub fn assert_keys(value: &Value, expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(keys(value), expected, "{value}");
}

/// A number at a path such as `/qps/median`.
pub fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {pointer} of {value}"))
}

/// A `.npy` file by hand: type, shape and the cells' bytes.
pub struct Npy {
    pub descr: String,
    pub shape: (usize, usize),
    cells: Vec<u8>,
}

impl Npy {
    pub fn parse(bytes: &[u8]) -> Self {
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let begin = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!(begin % 64, 0, "the cells begin at {begin}");
        let header = std::str::from_utf8(&bytes[10..begin]).expect("text");
        assert!(header.contains("'fortran_order': False") && header.ends_with('\n'), "{header}");
        let after = |key: &str| header.split_once(key).expect("in the header").1;
        let descr = after("'descr': '").split_once('\'').expect("quoted").0.to_string();
        let shape = after("'shape': (").split_once(')').expect("a tuple").0;
        let (rows, columns) = shape.split_once(", ").expect("two dimensions");
        let shape = (rows.parse().expect("a number"), columns.parse().expect("a number"));
        Self { descr, shape, cells: bytes[begin..].to_vec() }
    }

    fn cells<const WIDTH: usize, T>(&self, descr: &str, decode: fn([u8; WIDTH]) -> T) -> Vec<Vec<T>> {
        let (rows, columns) = self.shape;
        assert_eq!((self.descr.as_str(), self.cells.len()), (descr, rows * columns * WIDTH));
        let mut cells = self.cells.as_chunks::<WIDTH>().0.iter().map(|&cell| decode(cell));
        (0..rows).map(|_| cells.by_ref().take(columns).collect()).collect()
    }

    pub fn int64(&self) -> Vec<Vec<i64>> {
        self.cells("<i8", i64::from_le_bytes)
    }

    pub fn float32(&self) -> Vec<Vec<f32>> {
        self.cells("<f4", f32::from_le_bytes)
    }
}

/// The rows of an `.fbin` file by hand.
pub fn fbin_rows(bytes: &[u8]) -> Vec<Vec<f32>> {
    let words: Vec<[u8; 4]> = bytes.as_chunks::<4>().0.to_vec();
    let (rows, dim) = (u32::from_le_bytes(words[0]) as usize, u32::from_le_bytes(words[1]) as usize);
    assert_eq!(words.len(), 2 + rows * dim);
    words[2..].chunks(dim).map(|row| row.iter().map(|&x| f32::from_le_bytes(x)).collect()).collect()
}

/// An `.fbin` file by hand.
pub fn fbin(rows: &[Vec<f32>]) -> Vec<u8> {
    let head = [rows.len() as u32, rows[0].len() as u32].into_iter().flat_map(u32::to_le_bytes);
    head.chain(rows.iter().flatten().flat_map(|x| x.to_le_bytes())).collect()
}

/// What a row of measured figures holds, as promised.
pub const SEARCH_KEYS: [&str; 22] = [
    "index",
    "path",
    "params",
    "k",
    "threads",
    "mode",
    "device",
    "residency",
    "io_state",
    "memory_budget_bytes",
    "serving_bytes",
    "queries",
    "recall",
    "recall_ids",
    "qps",
    "latency_us",
    "pages_per_query",
    "bytes_per_query",
    "cache_hits_per_query",
    "io_wait_us_per_query",
    "distances_per_query",
    "hops_per_query",
];
