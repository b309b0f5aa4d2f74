//! Where samples and trees come from.

use crate::region_tree;
use crate::sample::Sample;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingError;
use hv_shmem::backing::Mapping;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::View;
use hv_shmem::backing::fault_guard;
use hv_shmem::header::Header;
use hv_shmem::mem::OutOfBounds;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::region::RegionError;
use hv_shmem::show::RegionView;
use portal_device::inspect::Node;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// Something that can be looked at again and again.
pub trait Source: Send {
    /// What it is, in a few words.
    fn title(&self) -> String;

    /// How things stand. What cannot be looked at is a problem in the sample.
    ///
    /// # Errors
    /// [`SourceError`] when there is nothing to look at, for now or for good.
    fn sample(&mut self) -> Result<Sample, SourceError>;

    /// The tree, with more in it than a sample has.
    ///
    /// # Errors
    /// As [`Self::sample`].
    fn tree(&mut self) -> Result<Node, SourceError>;
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The region's storage cannot be used.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// The bytes are no region.
    #[error("{region}: {source}")]
    Region {
        /// Which region.
        region: String,
        /// What is wrong with it.
        source: RegionError,
    },
    /// The switchboard or VMM did not answer as it should.
    #[error("{0}")]
    Remote(String),
}

/// A region, mapped for reading only.
#[derive(Debug)]
pub struct WatchedRegion {
    backing: Backing,
    mapping: Mapping,
    header: Header,
}

impl WatchedRegion {
    /// Maps a region read-only.
    ///
    /// # Errors
    /// [`SourceError`] when it cannot be mapped or is no region.
    pub fn new(backing: Backing, shown: &str) -> Result<Self, SourceError> {
        // A file can be cut off while it is looked at.
        fault_guard::install().map_err(|e| SourceError::Remote(format!("SIGBUS guard: {e}")))?;
        let mapping = backing.map(View::OBSERVER)?;
        let options = AttachOptions {
            read_only: true,
            ..AttachOptions::default()
        };
        let attached = PortalRegion::attach(mapping.mem(), options);
        let attached = attached.map_err(|source| SourceError::Region {
            region: shown.to_owned(),
            source,
        })?;
        Ok(Self {
            header: attached.header().clone(),
            mapping,
            backing,
        })
    }

    /// Its header, as it was when it was mapped.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// A quick look.
    ///
    /// # Errors
    /// [`SourceError`] when its storage went away.
    pub fn glance(&self) -> Result<RegionView, SourceError> {
        self.look(RegionView::glance)
    }

    /// A look at everything.
    ///
    /// # Errors
    /// As [`Self::glance`].
    pub fn read(&self) -> Result<RegionView, SourceError> {
        self.look(RegionView::read)
    }

    fn look(
        &self,
        how: impl Fn(
            &hv_shmem::backing::MappedMem,
            &Header,
            &Backing,
        ) -> Result<RegionView, OutOfBounds>,
    ) -> Result<RegionView, SourceError> {
        self.backing.check()?;
        let view = how(&self.mapping.mem(), &self.header, &self.backing);
        let view = view.map_err(|e| SourceError::Region {
            region: self.header.name.to_string(),
            source: e.into(),
        })?;
        // Pages that went away under the reader read as zeros.
        self.mapping.check()?;
        Ok(view)
    }
}

/// A region file.
#[derive(Debug)]
pub struct FileSource {
    title: String,
    region: WatchedRegion,
    began: Instant,
}

impl FileSource {
    /// Opens the file for reading.
    ///
    /// # Errors
    /// [`SourceError`] for what is no file or no region.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let title = path.display().to_string();
        let backing = Backing::open_file(path, OpenAs::Observer)?;
        Ok(Self {
            region: WatchedRegion::new(backing, &title)?,
            title,
            began: Instant::now(),
        })
    }
}

impl Source for FileSource {
    fn title(&self) -> String {
        self.title.clone()
    }

    fn sample(&mut self) -> Result<Sample, SourceError> {
        Ok(Sample {
            at: self.began.elapsed(),
            regions: vec![self.region.glance()?],
            ..Sample::default()
        })
    }

    fn tree(&mut self) -> Result<Node, SourceError> {
        let view = self.region.read()?;
        let regions = Node::new().with(view.name.clone(), region_tree::region(&view));
        Ok(Node::new().with("regions", regions))
    }
}

/// Several sources as one.
pub struct Joined {
    sources: Vec<Box<dyn Source>>,
    began: Instant,
}

impl Joined {
    /// At least one source; the first gives the time.
    pub fn new(sources: Vec<Box<dyn Source>>) -> Self {
        Self {
            sources,
            began: Instant::now(),
        }
    }

    fn at(&self) -> Duration {
        self.began.elapsed()
    }
}

/// What is wrong with one of several places. Errors that name it do so once.
fn problem(title: &str, error: &SourceError) -> String {
    let text = error.to_string();
    match text.contains(title) {
        true => text,
        false => format!("{title}: {text}"),
    }
}

impl Source for Joined {
    fn title(&self) -> String {
        let titles: Vec<_> = self.sources.iter().map(|source| source.title()).collect();
        titles.join(", ")
    }

    fn sample(&mut self) -> Result<Sample, SourceError> {
        let mut all = Sample {
            at: self.at(),
            ..Sample::default()
        };
        for source in &mut self.sources {
            match source.sample() {
                Ok(sample) => all.merge(sample),
                Err(error) => all.problems.push(problem(&source.title(), &error)),
            }
        }
        Ok(all)
    }

    fn tree(&mut self) -> Result<Node, SourceError> {
        let mut all = Node::new();
        for source in &mut self.sources {
            // One that does not answer hides nothing of the others.
            match source.tree() {
                Ok(tree) => all.push(source.title(), tree),
                Err(error) => all.push(source.title(), error.to_string()),
            }
        }
        Ok(all)
    }
}
