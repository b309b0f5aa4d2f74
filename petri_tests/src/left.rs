//! What a run inside L1 leaves: files, which come out through its job's output.
//!
//! Each is framed by a line `##file NAME`; what looks like a frame inside one is
//! escaped.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Bytes of a file that come out at most: its end.
const FILE_END: usize = 32 << 10;
/// What starts a frame in a job's output, and what stands for it inside one.
const MARK: &str = "##";
const ESCAPED: &str = "%%";

/// Writes the end of each file of `folder` to standard output.
pub(crate) fn show(folder: &Path) {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    for path in files {
        let bytes = fs::read(&path).unwrap_or_default();
        let text = escaped(&String::from_utf8_lossy(
            &bytes[bytes.len().saturating_sub(FILE_END)..],
        ));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        println!("##file {name}\n{text}");
    }
}

/// The text as it may stand in a frame.
pub(crate) fn escaped(text: &str) -> String {
    text.replace(MARK, ESCAPED)
}

/// Puts the files that are in a job's output into `folder`; the lines of other frames,
/// as name and rest.
pub(crate) fn unpack(output: &str, folder: &Path) -> Vec<(String, String)> {
    let mut others = Vec::new();
    for part in output.split(MARK).skip(1) {
        let (head, body) = part.split_once('\n').unwrap_or((part, ""));
        match head.split_once(' ') {
            // A name, never a path.
            Some(("file", name)) if !name.contains('/') => {
                let _ = fs::create_dir_all(folder);
                let _ = fs::write(folder.join(name), body.replace(ESCAPED, MARK));
            }
            Some((name, rest)) => others.push((name.to_owned(), rest.to_owned())),
            None => {}
        }
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_lines_come_out_as_they_went_in() {
        let folder = tempfile::tempdir().unwrap();
        let said = format!(
            "noise\n##taken {{\"a\":1}}\nmore\n##file a.log\n{}\n##file ../b\nx\n##taken {{}}\n",
            escaped("##up\nlast")
        );
        let others = unpack(&said, folder.path());
        let file = fs::read_to_string(folder.path().join("a.log")).unwrap();
        assert_eq!(file, "##up\nlast\n");
        assert_eq!(
            others,
            [
                ("taken".to_owned(), "{\"a\":1}".to_owned()),
                ("file".to_owned(), "../b".to_owned()),
                ("taken".to_owned(), "{}".to_owned())
            ]
        );
        assert!(!folder.path().join("../b").exists());
    }
}
