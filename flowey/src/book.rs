//! The Guide without mdBook: SUMMARY.md lists every page once, every page that it
//! lists exists, and every relative link and anchor in the Guide, the README and
//! the other Markdown files of the root resolves.

use crate::ended::Ended;
use crate::workspace;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// Checks the Guide and the root's Markdown files.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn check() -> anyhow::Result<Ended> {
    let root = workspace::root();
    let guide = root.join("Guide/src");
    let mut flaws = Vec::new();
    let mut pages = markdown_in(&guide, true);
    flaws.extend(unlisted(&guide, &pages)?);
    pages.extend(markdown_in(root, false));
    for page in &pages {
        let text = std::fs::read_to_string(page)?;
        flaws.extend(dead_links(page, &text));
    }
    println!("    {} Markdown files", pages.len());
    for flaw in &flaws {
        println!("    {flaw}");
    }
    Ok(match flaws.len() {
        0 => Ended::Passed,
        n => Ended::Failed(format!(
            "`cargo flowey ci book`: {n} flaws in the Guide, listed above"
        )),
    })
}

fn unlisted(guide: &Path, pages: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let summary_path = guide.join("SUMMARY.md");
    let summary = std::fs::read_to_string(&summary_path)
        .map_err(|e| anyhow::anyhow!("cannot read {}: {e}", summary_path.display()))?;
    let listed: Vec<PathBuf> = links(&summary)
        .into_iter()
        .map(|(_, target)| guide.join(target))
        .collect();
    let mut flaws = Vec::new();
    let mut seen = BTreeSet::new();
    for page in &listed {
        if !seen.insert(page) {
            flaws.push(format!("SUMMARY.md lists {} twice", page.display()));
        }
    }
    for page in pages {
        if page != &summary_path && !listed.contains(page) {
            flaws.push(format!("SUMMARY.md does not list {}", page.display()));
        }
    }
    Ok(flaws)
}

fn dead_links(page: &Path, text: &str) -> Vec<String> {
    let mut flaws = Vec::new();
    for (line, target) in links(text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = match target.split_once('#') {
            Some((file, anchor)) => (file, Some(anchor)),
            None => (target.as_str(), None),
        };
        let path = match file {
            "" => page.to_owned(),
            file => page.parent().unwrap_or(Path::new("")).join(file),
        };
        let place = format!("{}:{line}", page.display());
        if !path.exists() {
            flaws.push(format!("{place}: no file {target}"));
            continue;
        }
        if let Some(anchor) = anchor
            && path.extension().is_some_and(|e| e == "md")
        {
            let there = std::fs::read_to_string(&path).unwrap_or_default();
            if !anchors(&there).contains(anchor) {
                flaws.push(format!("{place}: no heading for {target}"));
            }
        }
    }
    flaws
}

/// The targets of `[text](target)` with their line numbers; code is no link.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("\u{1}");
        let mut rest = plain.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find(')') else { break };
            let target = rest[..end].split_whitespace().next().unwrap_or_default();
            found.push((number, target.trim_matches(['<', '>']).to_owned()));
            rest = &rest[end..];
        }
    }
    found
}

/// Headings as mdBook and GitHub make anchors of them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.strip_prefix('#') else {
            continue;
        };
        let heading = heading.trim_start_matches('#').trim();
        let anchor: String = heading
            .to_lowercase()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            })
            .collect();
        let mut numbered = anchor.clone();
        let mut n = 0;
        while !found.insert(numbered.clone()) {
            n += 1;
            numbered = format!("{anchor}-{n}");
        }
    }
    found
}

/// The lines outside fenced code, with their numbers from 1.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((i + 1, line));
        }
    }
    lines
}

fn markdown_in(folder: &Path, deep: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if deep && path.is_dir() {
            found.extend(markdown_in(&path, true));
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_skip_code() {
        let text = "see [a](b.md) and `[no](code.md)`\n```\n[no](fence.md)\n```\n[c](<d.md> \"t\")";
        assert_eq!(
            links(text),
            [(1, "b.md".to_owned()), (5, "d.md".to_owned())]
        );
    }

    #[test]
    fn anchors_are_slugs_and_repeats_are_numbered() {
        let found = anchors("# Two words\n## `code`, and more\n## Two words\n");
        let expected = ["two-words", "code-and-more", "two-words-1"];
        assert_eq!(found, expected.map(str::to_owned).into());
    }

    #[test]
    fn dead_files_and_anchors_are_found_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("a.md");
        let text = "# Here\n[ok](a.md#here) [gone](b.md)\n[bad](#there) [web](https://x.y/z)\n";
        std::fs::write(&page, text).unwrap();
        let flaws = dead_links(&page, text);
        assert_eq!(flaws.len(), 2, "{flaws:?}");
        assert!(flaws[0].ends_with("a.md:2: no file b.md"));
        assert!(flaws[1].ends_with("a.md:3: no heading for #there"));
    }

    #[test]
    fn pages_missing_from_the_summary_are_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("SUMMARY.md"),
            "- [A](a.md)\n- [A](a.md)\n",
        )
        .unwrap();
        let pages = ["SUMMARY.md", "a.md", "b.md"].map(|p| folder.path().join(p));
        let flaws = unlisted(folder.path(), &pages).unwrap();
        assert_eq!(flaws.len(), 2, "{flaws:?}");
    }
}
