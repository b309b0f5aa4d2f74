//! `portal inspect`: the whole tree, or a part of it.

use super::failure;
use super::source;
use crate::cli;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use portal_device::inspect::Node;
use portal_device::inspect::Plain;
use portal_device::inspect::Value;

/// Names that an error lists.
const NAMES: usize = 20;

pub(super) fn run(args: &cli::Inspect) -> Outcome {
    let mut source = source(&args.at)?;
    let tree = source.tree().map_err(|e| failure(&e))?;
    let found = match &args.path {
        Some(path) => find(tree, path).map_err(|what| Failure::new(Kind::Usage, what))?,
        None => Value::Node(tree),
    };
    if args.json {
        return print::plain_json(&found);
    }
    print::line(found.to_string().trim_end());
    Ok(())
}

/// What is at a path of names joined by `/`; else which names there are where it
/// leads nowhere.
fn find(tree: Node, path: &str) -> Result<Value, String> {
    let mut at = Value::Node(tree);
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let Value::Node(node) = &at else {
            let shown = Plain(path);
            return Err(format!("{shown}: {} has nothing below it", Plain(name)));
        };
        let found = node.entries().find(|(there, _)| *there == name);
        let Some((_, found)) = found else {
            let names: Vec<_> = node.entries().map(|(name, _)| name).collect();
            let more = names.len().saturating_sub(NAMES);
            let mut shown = names.into_iter().take(NAMES).collect::<Vec<_>>().join(", ");
            if more > 0 {
                shown = format!("{shown} and {more} more");
            }
            return Err(format!(
                "{}: there is no {}; there are: {}",
                Plain(path),
                Plain(name),
                Plain(&shown)
            ));
        };
        at = found.clone();
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Node {
        let peer = Node::new().with("name", "a\x1b[2J").with("epoch", 3u32);
        let peers = Node::new().with("1", peer);
        let lake = Node::new().with("peers", peers);
        Node::new().with("regions", Node::new().with("lake", lake))
    }

    #[test]
    fn a_path_leads_to_a_subtree_or_a_value() {
        let found = |path: &str| find(tree(), path).map(|value| value.to_string());
        assert_eq!(found("regions/lake/peers/1/epoch").as_deref(), Ok("3"));
        assert_eq!(found("/regions//lake/peers/1/epoch/").as_deref(), Ok("3"));
        let peer = found("regions/lake/peers/1").expect("a peer");
        assert_eq!(peer, "name: a\\u{1b}[2J\nepoch: 3\n");
        assert!(found("").is_ok(), "the whole");
    }

    #[test]
    fn a_path_that_leads_nowhere_says_where_it_ended() {
        let wrong = |path: &str| find(tree(), path).expect_err(path);
        let error = wrong("regions/sea/peers");
        assert!(
            error.contains("no sea") && error.contains("are: lake"),
            "{error}"
        );
        let error = wrong("regions/lake/peers/1/epoch/x");
        assert!(error.contains("nothing below"), "{error}");
        assert!(!wrong("\x1b[2J").contains('\x1b'));
    }
}
