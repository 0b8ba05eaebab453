//! Files in an object store, as durable work sees files.
//!
//! What is unfinished (`*.partial`) lies in a folder of this machine, and is put into the store, whole, when it is renamed. A
//! read of a few bytes is a request; what is read at random is copied nearby first ([`Copies`]). Requests that fail on the
//! way are made again, after longer and longer waits, by the crate that makes them: errors of the server (5xx), timeouts,
//! connections that break, and answers that end early.

use std::fs::File;
use std::future::Future;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Name;
use object_store::{
    BackoffConfig, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::runtime::Runtime;

use super::copies::Copies;
use super::{Disk, Files, Reading, Writing};
use crate::error::BuilderError;

/// Bytes at the end of a file that come with opening it: a footer, as a rule.
const TAIL: u64 = 64 << 10;

/// Bytes of a part that is sent or fetched by itself, and how many are on their way at a time.
const PART: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };
const PARTS_AT_A_TIME: usize = 4;

/// Parts of an object at most; S3 takes 10,000.
const PARTS: u64 = 9000;

/// Times that a request is made again before it is given up, unless `KILN_STORE_RETRIES` says otherwise, and for how long.
const RETRIES: usize = 8;
const RETRY_FOR: Duration = Duration::from_secs(150);

/// Waits before lists and removals whose answer was lost are asked for again.
const ANSWERS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// Unfinished files that are older than this are of processes that died.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

const PARTIAL: &str = ".partial";

/// A folder in an object store.
pub(crate) struct Objects(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    /// The address, as it was given, and the same within its bucket.
    root: PathBuf,
    prefix: Name,
    /// Folder of this machine.
    nearby: PathBuf,
    copies: Copies,
}

impl Objects {
    /// The folder at `address`, reached with what the environment says. `nearby` takes copies of up to `most` bytes.
    pub(crate) fn open(address: &str, nearby: &Path, most: u64) -> Result<Self, BuilderError> {
        let refuse = |problem: String| BuilderError::Mismatch(format!("--work {address}: {problem}"));
        let (scheme, rest) = address.split_once("://").ok_or_else(|| refuse("is not an address".into()))?;
        let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(refuse(format!("names no bucket; write {scheme}://BUCKET/FOLDER")));
        }
        let prefix = Name::parse(folder).map_err(|error| refuse(error.to_string()))?;
        // TLS needs a provider; where another is installed already, that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let retry = retry()?;
        let bucket = format!("{scheme}://{bucket}");
        let store: Result<Arc<dyn ObjectStore>, Error> = match scheme {
            "s3" | "s3a" => AmazonS3Builder::from_env().with_url(bucket).with_retry(retry).build().map(shared),
            "gs" => GoogleCloudStorageBuilder::from_env().with_url(bucket).with_retry(retry).build().map(shared),
            "az" | "azure" | "abfs" | "abfss" => {
                MicrosoftAzureBuilder::from_env().with_url(bucket).with_retry(retry).build().map(shared)
            }
            _ => return Err(refuse(format!("{scheme}:// is not known; use s3://, gs://, az://, or a folder"))),
        };
        let store = store.map_err(|error| refuse(error.to_string()))?;
        Self::over(store, address, prefix, nearby, most)
    }

    /// The same over any store.
    pub(super) fn over(
        store: Arc<dyn ObjectStore>,
        address: &str,
        prefix: Name,
        nearby: &Path,
        most: u64,
    ) -> Result<Self, BuilderError> {
        // Apart from other places that keep copies in the same folder.
        let nearby = nearby.join(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(address.as_bytes())));
        std::fs::create_dir_all(&nearby).map_err(BuilderError::io(&nearby, "create"))?;
        remove_abandoned(&nearby);
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).thread_name("kiln-store").enable_all().build();
        let runtime = runtime.map_err(BuilderError::io(&nearby, "start threads for"))?;
        let copies = Copies::new(nearby.clone(), most);
        Ok(Self(Arc::new(Inner { store, runtime, root: PathBuf::from(address), prefix, nearby, copies })))
    }
}

fn shared<S: ObjectStore>(store: S) -> Arc<dyn ObjectStore> {
    Arc::new(store)
}

fn retry() -> Result<RetryConfig, BuilderError> {
    let max_retries = match std::env::var("KILN_STORE_RETRIES") {
        Err(_) => RETRIES,
        Ok(text) => text.parse().map_err(|_| {
            BuilderError::Mismatch(format!("KILN_STORE_RETRIES={text}: give a number of times, such as {RETRIES}"))
        })?,
    };
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(15), base: 2.0 };
    Ok(RetryConfig { backoff, max_retries, retry_timeout: RETRY_FOR })
}

/// What cannot be removed stays.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if entry.file_name().to_string_lossy().ends_with(PARTIAL) && age.is_some_and(|age| age > ABANDONED) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// An error of the store as one of files.
fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ErrorKind::PermissionDenied,
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl Inner {
    fn run<R>(&self, work: impl Future<Output = Result<R, Error>>) -> io::Result<R> {
        self.runtime.block_on(work).map_err(io_error)
    }

    /// The same for what may be done again, and whose answer the crate reads without asking again where it ends early.
    fn run_again<R, F: Future<Output = Result<R, Error>>>(&self, work: impl Fn() -> F) -> io::Result<R> {
        for wait in ANSWERS {
            match self.run(work()) {
                Err(error) if error.kind() == ErrorKind::Other => std::thread::sleep(wait),
                done => return done,
            }
        }
        self.run(work())
    }

    /// What follows the address in a path under it.
    fn name(&self, path: &Path) -> io::Result<String> {
        let name = path.strip_prefix(&self.root).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        Ok(name.to_string_lossy().into_owned())
    }

    fn object(&self, path: &Path) -> io::Result<Name> {
        Ok(self.prefix.clone().join(self.name(path)?))
    }

    /// Where an unfinished file lies.
    fn unfinished(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(self.nearby.join(self.name(path)?))
    }

    /// The end of an object, what tells this version of it from others, and its length.
    fn tail(&self, object: &Name) -> io::Result<(Bytes, Option<String>, u64)> {
        let suffix = GetOptions { range: Some(GetRange::Suffix(TAIL)), ..GetOptions::default() };
        self.run(async {
            let got = match self.store.get_opts(object, suffix).await {
                // Azure has no such ranges.
                Err(Error::NotSupported { .. }) => {
                    let length = self.store.head(object).await?.size;
                    let range = Some(GetRange::Bounded(length.saturating_sub(TAIL)..length));
                    self.store.get_opts(object, GetOptions { range, ..GetOptions::default() }).await?
                }
                got => got?,
            };
            let (version, length) = (got.meta.e_tag.clone(), got.meta.size);
            Ok((got.bytes().await?, version, length))
        })
    }

    /// Puts a file of this machine into the store, whole or not at all.
    fn put(&self, from: &Path, object: &Name) -> io::Result<()> {
        let mut file = File::open(from)?;
        let length = file.metadata()?.len();
        let part = PART.max(length.div_ceil(PARTS));
        let mut read = |bytes: u64| {
            let mut part = vec![0; bytes as usize];
            file.read_exact(&mut part).map(|()| Bytes::from(part))
        };
        if length <= part {
            let payload = PutPayload::from_bytes(read(length)?);
            return self.run(self.store.put(object, payload)).map(drop);
        }
        let upload = self.run(self.store.put_multipart(object))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part as usize);
        let mut sent = 0;
        while sent < length {
            let bytes = part.min(length - sent);
            let sending = read(bytes).and_then(|bytes| {
                // Writing spawns the part's request on the runtime.
                let _entered = self.runtime.enter();
                self.run(upload.wait_for_capacity(PARTS_AT_A_TIME))?;
                upload.put(bytes);
                Ok(())
            });
            if let Err(error) = sending {
                let _ = self.run(upload.abort());
                return Err(error);
            }
            sent += bytes;
        }
        // It aborts by itself where that fails.
        self.run(upload.finish()).map(drop)
    }

    /// Copies an object into a new file of this machine, a few parts at a time.
    fn fetch(&self, object: &Name, version: Option<&String>, length: u64, to: &Path) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let file = File::create_new(to)?;
        let starts: Vec<u64> = (0..length).step_by(PART as usize).collect();
        for some in starts.chunks(PARTS_AT_A_TIME) {
            let part = |&start: &u64| {
                let range = Some(GetRange::Bounded(start..length.min(start + PART)));
                let options = GetOptions { range, if_match: version.cloned(), ..GetOptions::default() };
                let (store, object) = (Arc::clone(&self.store), object.clone());
                self.runtime.spawn(async move { store.get_opts(&object, options).await?.bytes().await })
            };
            for (start, part) in some.iter().zip(some.iter().map(part).collect::<Vec<_>>()) {
                let bytes = self.runtime.block_on(part).map_err(io::Error::other)?.map_err(io_error)?;
                file.write_all_at(&bytes, *start)?;
            }
        }
        Ok(())
    }
}

impl Files for Objects {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Writing>> {
        Disk.create(&self.0.unfinished(path)?)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Reading>> {
        if is_unfinished(path) {
            return Disk.open(&self.0.unfinished(path)?);
        }
        let object = self.0.object(path)?;
        let (tail, _, length) = self.0.tail(&object)?;
        Ok(Box::new(Object { objects: Arc::clone(&self.0), object, length, tail }))
    }

    fn open_nearby(&self, path: &Path) -> io::Result<Box<dyn Reading>> {
        let object = self.0.object(path)?;
        let (_, version, length) = self.0.tail(&object)?;
        let told_apart = format!("{version:?} {length}");
        let told_apart = xxhash_rust::xxh3::xxh3_64(told_apart.as_bytes());
        let copy = format!("{}.{told_apart:016x}", self.0.name(path)?);
        Ok(Box::new(Nearby { objects: Arc::clone(&self.0), object, version, length, copy }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let from = self.0.unfinished(from)?;
        self.0.put(&from, &self.0.object(to)?)?;
        std::fs::remove_file(from)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if is_unfinished(path) {
            return std::fs::remove_file(self.0.unfinished(path)?);
        }
        let object = self.0.object(path)?;
        self.0.run_again(|| self.0.store.delete(&object))
    }

    fn punch(&self, _path: &Path, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.0.name(folder)?;
        let listed = self.0.run_again(|| self.0.store.list_with_delimiter(Some(&self.0.prefix)))?;
        let name = |object: object_store::ObjectMeta| object.location.filename().map(str::to_string);
        Ok(listed.objects.into_iter().filter_map(name).collect())
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }
}

fn is_unfinished(path: &Path) -> bool {
    path.to_string_lossy().ends_with(PARTIAL)
}

/// An object, read by requests.
struct Object {
    objects: Arc<Inner>,
    object: Name,
    length: u64,
    tail: Bytes,
}

impl Reading for Object {
    fn len(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|&end| end <= self.length);
        let end = end.ok_or(ErrorKind::UnexpectedEof)?;
        let tail = self.length - self.tail.len() as u64;
        if offset >= tail {
            buffer.copy_from_slice(&self.tail[(offset - tail) as usize..][..buffer.len()]);
            return Ok(());
        }
        let mut rest = buffer;
        let mut at = offset;
        while at < end {
            let bytes = self.objects.run(self.objects.store.get_range(&self.object, at..end.min(at + PART)))?;
            let (part, after) = rest.split_at_mut(bytes.len().min(rest.len()));
            if part.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            part.copy_from_slice(&bytes[..part.len()]);
            (rest, at) = (after, at + bytes.len() as u64);
        }
        Ok(())
    }
}

/// An object, read from a copy on this machine.
struct Nearby {
    objects: Arc<Inner>,
    object: Name,
    version: Option<String>,
    length: u64,
    /// Name of the copy.
    copy: String,
}

impl Reading for Nearby {
    fn len(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let fetch = |to: &Path| self.objects.fetch(&self.object, self.version.as_ref(), self.length, to);
        let file = self.objects.copies.get(&self.copy, self.length, fetch)?;
        Reading::read_at(&*file, buffer, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    const ADDRESS: &str = "mem://bucket/folder";

    fn objects(store: &Arc<InMemory>, nearby: &Path) -> Objects {
        Objects::over(store.clone(), ADDRESS, Name::from("folder"), nearby, 1 << 20).expect("opened")
    }

    #[test]
    fn what_is_put_in_parts_is_read_in_parts_and_nearby() {
        let (store, folder) = (Arc::new(InMemory::new()), tempfile::tempdir().expect("temporary folder"));
        let (here, there) =
            (objects(&store, &folder.path().join("here")), objects(&store, &folder.path().join("there")));
        let path = Path::new(ADDRESS).join("rows-00001");
        let partial = Path::new(ADDRESS).join("rows-00001.token.partial");
        for bytes in [1usize, 1 << 16, (1 << 16) + 1, 700_001] {
            let content: Vec<u8> = (0..bytes).map(|i| ((i * i) >> 7) as u8).collect();
            let mut file = here.create(&partial).expect("created");
            content.chunks(10_000).for_each(|chunk| file.write(chunk).expect("written"));
            file.sync().expect("flushed");
            assert!(there.open(&path).is_err() || bytes > 1, "unfinished files are seen by nobody else");
            here.rename(&partial, &path).expect("put");
            assert_eq!(there.list(Path::new(ADDRESS)).expect("listed"), ["rows-00001"]);
            for reading in [there.open(&path).expect("opened"), there.open_nearby(&path).expect("opened")] {
                assert_eq!(reading.len().expect("known"), bytes as u64);
                for (first, last) in [(0, bytes), (bytes / 3, bytes), (bytes / 3, bytes / 2), (bytes, bytes)] {
                    let mut read = vec![0; last - first];
                    reading.read_at(&mut read, first as u64).expect("read");
                    assert!(read == content[first..last], "{bytes}: {first} to {last}");
                }
                let past = reading.read_at(&mut [0; 2], bytes as u64 - 1).expect_err("past the end");
                assert_eq!(past.kind(), ErrorKind::UnexpectedEof);
            }
        }
        here.remove(&path).expect("removed");
        assert_eq!(there.open(&path).map(drop).expect_err("gone").kind(), ErrorKind::NotFound);
        assert_eq!(there.open_nearby(&path).map(drop).expect_err("gone").kind(), ErrorKind::NotFound);
        assert!(there.list(Path::new(ADDRESS)).expect("listed").is_empty());
    }

    #[test]
    fn another_version_is_not_taken_for_its_copy() {
        let (store, folder) = (Arc::new(InMemory::new()), tempfile::tempdir().expect("temporary folder"));
        let objects = objects(&store, folder.path());
        let path = Path::new(ADDRESS).join("rows-00001");
        let put = |byte: u8| {
            let partial = Path::new(ADDRESS).join("x.partial");
            objects.create(&partial).and_then(|mut file| file.write(&[byte; 50])).expect("written");
            objects.rename(&partial, &path).expect("put");
        };
        let read = |reading: &dyn Reading| {
            let mut byte = [0];
            reading.read_at(&mut byte, 7).map(|()| byte[0])
        };
        put(1);
        let (first, late) = (objects.open_nearby(&path).expect("opened"), objects.open_nearby(&path).expect("opened"));
        assert_eq!(read(&*first).expect("copied"), 1);
        put(2);
        assert_eq!(read(&*objects.open_nearby(&path).expect("opened")).expect("copied"), 2);
        assert_eq!(read(&*late).expect("there is a copy of what it opened"), 1);
    }
}
