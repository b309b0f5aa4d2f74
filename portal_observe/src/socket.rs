//! Looking at a switchboard or a VMM through its Portal socket, and finding such
//! sockets.

use crate::region_tree;
use crate::sample::Sample;
use crate::source::Source;
use crate::source::SourceError;
use crate::source::WatchedRegion;
use hv_shmem::name::Name;
use portal_client::ClientError;
use portal_client::Connection;
use portal_client::RegionInfo;
use portal_device::inspect::Node;
use portal_device::inspect::Value;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

/// Most sockets of a folder that are tried.
pub const SOCKETS_MAX: usize = 256;

/// A switchboard or a VMM that serves the Portal protocol.
#[derive(Debug)]
pub struct SocketSource {
    path: PathBuf,
    /// `None` after it was lost; the next look tries again.
    connection: Option<Connection>,
    watched: BTreeMap<Name, WatchedRegion>,
    began: Instant,
}

impl SocketSource {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError`] when nobody answers there.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let path = path.into();
        let connection = Connection::open(&path)?;
        let mut this = Self::later(path);
        this.connection = Some(connection);
        Ok(this)
    }

    /// Connects at the first look.
    pub fn later(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            connection: None,
            watched: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Asks; what was lost is connected again, once.
    fn ask<T>(
        &mut self,
        question: impl Fn(&mut Connection) -> Result<T, ClientError>,
    ) -> Result<T, SourceError> {
        let told = |error: ClientError| SourceError::Remote(error.to_string());
        if let Some(connection) = &mut self.connection {
            match question(connection) {
                // The other end closes connections that were idle for long.
                Err(ClientError::Lost) => {}
                Err(refused @ ClientError::Refused(_)) => return Err(told(refused)),
                Err(error) => {
                    // What comes next on it would be an answer to this.
                    self.connection = None;
                    return Err(told(error));
                }
                Ok(answer) => return Ok(answer),
            }
        }
        self.connection = None;
        let mut connection = Connection::open(&self.path).map_err(told)?;
        let answer = question(&mut connection).map_err(told)?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Maps regions that are new, lets go of those that are not there any more;
    /// what cannot be mapped is a problem.
    fn keep_up(&mut self) -> Result<Vec<String>, SourceError> {
        let listed = self.ask(Connection::regions)?;
        let there = |name: &Name, region: &WatchedRegion| {
            let same = |info: &RegionInfo| info.name == *name && info.uuid == region.header().uuid;
            listed.iter().any(same)
        };
        self.watched.retain(|name, region| there(name, region));
        let mut problems = Vec::new();
        for info in &listed {
            if self.watched.contains_key(&info.name) {
                continue;
            }
            let region = self
                .ask(|connection| connection.watch(&info.name))
                .and_then(|backing| WatchedRegion::new(backing, info.name.as_str()));
            match region {
                Ok(region) => {
                    self.watched.insert(info.name, region);
                }
                Err(error) => problems.push(format!("region {}: {error}", info.name)),
            }
        }
        Ok(problems)
    }

    fn remote_tree(&mut self) -> Result<Node, SourceError> {
        let text = self.ask(Connection::inspect)?;
        serde_json::from_str(&text)
            .map_err(|error| SourceError::Remote(format!("its tree is no JSON: {error}")))
    }
}

impl Source for SocketSource {
    fn title(&self) -> String {
        self.path.display().to_string()
    }

    fn sample(&mut self) -> Result<Sample, SourceError> {
        let problems = self.keep_up()?;
        let tree = self.remote_tree()?;
        let mut sample = Sample {
            at: self.began.elapsed(),
            problems,
            ..Sample::default()
        };
        for region in self.watched.values() {
            match region.glance() {
                Ok(view) => sample.regions.push(view),
                Err(error) => sample.problems.push(error.to_string()),
            }
        }
        sample.learn(&tree);
        Ok(sample)
    }

    /// What the other end says, and below it what the regions' memory says.
    fn tree(&mut self) -> Result<Node, SourceError> {
        let problems = self.keep_up()?;
        let mut tree = self.remote_tree()?;
        for (name, region) in &self.watched {
            let own = region_tree::region(&region.read()?);
            if let Some(there) = tree.subtree(&format!("regions/{name}")) {
                add(there, own);
            }
        }
        for (index, problem) in problems.into_iter().enumerate() {
            tree.push(format!("problem_{index}"), problem);
        }
        Ok(tree)
    }
}

/// Adds what is not there yet, level by level.
fn add(to: &mut Node, from: Node) {
    for (name, value) in from.entries() {
        if to.get(name).is_none() {
            to.push(name.to_owned(), value.clone());
        } else if let (Some(below), Value::Node(node)) = (to.subtree(name), value) {
            add(below, node.clone());
        }
    }
}

/// Every Portal socket of a folder that somebody listens on, in the order of
/// their names. Compatibility sockets are of another type, so that connecting to
/// one does nothing to it.
pub fn find(folder: &Path) -> Vec<SocketSource> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let sockets = entries.flatten().filter(|entry| {
        let kind = entry.file_type();
        kind.is_ok_and(|kind| kind.is_socket())
    });
    let mut paths: Vec<_> = sockets
        .take(SOCKETS_MAX)
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    let open = |path| SocketSource::open(path).ok();
    paths.into_iter().filter_map(open).collect()
}

/// Whether the error is that this is a region's compatibility socket, or that
/// nobody listens: no reason to say more.
pub fn is_nobody(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Connect {
            errno: Errno::PROTOTYPE | Errno::CONNREFUSED | Errno::NOENT,
            ..
        }
    )
}
