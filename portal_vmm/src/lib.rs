//! A small VMM that runs several partitions over one shared region
