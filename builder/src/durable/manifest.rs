//! Which units are finished: one JSON file with a checksum, replaced as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Key;

/// The version of working folders that this code makes and goes on with.
pub(super) const VERSION: u32 = 1;

/// What the manifest says of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Hash of what the unit depends on.
    pub key: Key,
    /// Bytes of its file.
    pub bytes: u64,
    /// xxh3-64 of its footer, which holds those of its segments.
    pub checksum: String,
    /// What computed it, in words.
    pub backend: String,
}

/// The finished units of one build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Version of the folder.
    pub version: u32,
    /// Fingerprint of the data set.
    pub dataset: String,
    /// By file name.
    pub units: BTreeMap<String, Entry>,
}

/// Why a manifest cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ManifestError {
    /// It is of another version.
    Version(u64),
    /// It is not whole.
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    checksum: String,
    manifest: serde_json::Value,
}

impl Manifest {
    pub(super) fn new(dataset: &str) -> Self {
        Self { version: VERSION, dataset: dataset.to_string(), units: BTreeMap::new() }
    }

    /// The file's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let manifest = serde_json::to_value(self).expect("a manifest is plain data");
        let sealed = Sealed { checksum: checksum(&manifest), manifest };
        serde_json::to_vec_pretty(&sealed).expect("a manifest is plain data")
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let Sealed { checksum: expected, manifest } =
            serde_json::from_slice(bytes).map_err(|_| ManifestError::Damaged)?;
        if checksum(&manifest) != expected {
            return Err(ManifestError::Damaged);
        }
        match manifest.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {
                serde_json::from_value(manifest).map_err(|_| ManifestError::Damaged)
            }
            Some(version) => Err(ManifestError::Version(version)),
            None => Err(ManifestError::Damaged),
        }
    }
}

/// Objects keep their keys sorted, so that the same content has the same text.
fn checksum(manifest: &serde_json::Value) -> String {
    format!("{:016x}", xxh3_64(manifest.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_seen() {
        let mut manifest = Manifest::new("abc");
        let entry = Entry { key: Key::new("a", None, &[]), bytes: 7, checksum: "0".into(), backend: "cpu".into() };
        manifest.units.insert("rows-00001".into(), entry);
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        for at in (0..bytes.len()).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let read = Manifest::decode(&damaged);
            assert!(read == Err(ManifestError::Damaged) || read == Ok(manifest.clone()), "byte {at}: {read:?}");
        }
        for length in [0, 1, bytes.len() / 2] {
            assert_eq!(Manifest::decode(&bytes[..length]), Err(ManifestError::Damaged));
        }
        manifest.version = 9;
        assert_eq!(Manifest::decode(&manifest.encode()), Err(ManifestError::Version(9)));
    }
}
