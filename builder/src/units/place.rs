//! Where the units of a build lie that several machines share.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable::{Disk, Files};
use crate::error::BuilderError;

/// What a process keeps near itself of a place that is far away.
#[derive(Debug, Clone)]
pub struct NearbyCopies {
    /// The folder for copies, and for what is not finished.
    pub folder: PathBuf,
    /// Bytes that copies may take; of more, those go that were not used for longest.
    pub bytes: u64,
}

/// A place that all machines of a build reach.
#[derive(Clone)]
pub struct WorkPlace {
    pub(super) files: Arc<dyn Files>,
    /// The folder, or the address as it was given.
    pub(super) root: PathBuf,
    is_folder: bool,
}

impl WorkPlace {
    /// A folder, by path or as `file://` address, or an address in an object store (`s3://`, `gs://`, `az://`), reached with
    /// what the environment says of it.
    ///
    /// # Errors
    /// An address that cannot be understood, or of a kind that this build of Kiln does not know.
    pub fn open(place: &str, nearby: &NearbyCopies) -> Result<Self, BuilderError> {
        let place = place.trim_end_matches('/');
        let on_disk = |path: &str| Self { files: Arc::new(Disk), root: PathBuf::from(path), is_folder: true };
        match place.split_once("://") {
            None if !place.is_empty() => Ok(on_disk(place)),
            Some(("file", path)) if path.starts_with('/') => Ok(on_disk(path)),
            Some((scheme, _)) if scheme != "file" => Self::far(place, nearby),
            _ => Err(BuilderError::Mismatch(format!(
                "--work {place}: give a folder, file:///FOLDER with its whole path, or an address such as s3://BUCKET/FOLDER"
            ))),
        }
    }

    #[cfg(feature = "object-store")]
    fn far(place: &str, nearby: &NearbyCopies) -> Result<Self, BuilderError> {
        let objects = crate::durable::Objects::open(place, &nearby.folder, nearby.bytes)?;
        Ok(Self { files: Arc::new(objects), root: PathBuf::from(place), is_folder: false })
    }

    #[cfg(not(feature = "object-store"))]
    fn far(place: &str, _nearby: &NearbyCopies) -> Result<Self, BuilderError> {
        Err(BuilderError::Mismatch(format!(
            "--work {place}: this Kiln was built without object stores; give a folder, or build it with --features object-store"
        )))
    }

    /// The folder, or the address.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Creates the folder where it is one.
    pub(super) fn create(&self) -> Result<(), BuilderError> {
        match self.is_folder {
            true => std::fs::create_dir_all(&self.root).map_err(BuilderError::io(&self.root, "create")),
            false => Ok(()),
        }
    }

    /// All of a small file; `None` where it is not there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, BuilderError> {
        let path = self.root.join(name);
        let read = self.files.open(&path).and_then(|file| {
            let mut bytes = vec![0; file.len()? as usize];
            file.read_at(&mut bytes, 0)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BuilderError::io(&path, "read")(error)),
        }
    }

    /// Writes a small file, whole or not at all.
    pub(super) fn write(&self, name: &str, token: &str, bytes: &[u8]) -> Result<(), BuilderError> {
        let (partial, path) = (self.root.join(format!("{name}.{token}.partial")), self.root.join(name));
        let written = self.files.create(&partial).and_then(|mut file| {
            file.write(bytes)?;
            file.sync()
        });
        written.map_err(BuilderError::io(&partial, "write"))?;
        self.files.rename(&partial, &path).map_err(BuilderError::io(&path, "rename the finished file to"))?;
        self.files.sync_folder(&self.root).map_err(BuilderError::io(&self.root, "flush"))
    }
}
