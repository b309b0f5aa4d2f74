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
        Some(path) => find_anywhere(tree, path).map_err(|what| Failure::new(Kind::Usage, what))?,
        None => Value::Node(tree),
    };
    if args.json {
        return print::plain_json(&found);
    }
    print::line(found.to_string().trim_end());
    Ok(())
}

/// Where several sockets are looked at, each has its tree under its own path: what
/// is asked for is looked for in the one that is named first, else in all of them.
fn find_anywhere(tree: Node, path: &str) -> Result<Value, String> {
    let places = tree.entries().filter(|(name, _)| name.starts_with('/'));
    let places: Vec<_> = places
        .filter_map(|(name, value)| match value {
            Value::Node(node) => Some((name, node)),
            _ => None,
        })
        .collect();
    let named = places.iter().find_map(|(name, node)| {
        let rest = path.strip_prefix(name)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((*node, rest))
    });
    if let Some((node, rest)) = named {
        return find(node.clone(), rest);
    }
    let mut found = Vec::new();
    let mut nowhere = Vec::new();
    for (name, node) in &places {
        match find((*node).clone(), path) {
            Ok(value) => found.push(((*name).to_owned(), value)),
            Err(what) => nowhere.push(format!("{}: {what}", Plain(name))),
        }
    }
    if let [(_, only)] = found.as_slice() {
        return Ok(only.clone());
    }
    if found.is_empty() {
        return match nowhere.is_empty() {
            true => find(tree, path),
            false => Err(nowhere.join("\n")),
        };
    }
    let mut all = Node::new();
    for (name, value) in found {
        all.push(name, value);
    }
    Ok(Value::Node(all))
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
    fn of_several_places_the_one_that_has_it_answers() {
        let other = Node::new().with("regions", Node::new().with("sea", 1u32));
        let both = || {
            Node::new()
                .with("/run/a.sock", tree())
                .with("/run/b.sock", other.clone())
                .with("/run/c.sock", "cannot connect")
        };
        let found = |path: &str| find_anywhere(both(), path).map(|value| value.to_string());
        assert_eq!(found("regions/sea").as_deref(), Ok("1"));
        assert_eq!(found("/run/b.sock/regions/sea").as_deref(), Ok("1"));
        assert_eq!(found("regions/lake/peers/1/epoch").as_deref(), Ok("3"));
        let all = found("regions").expect("both have some");
        assert!(
            all.contains("/run/a.sock") && all.contains("/run/b.sock"),
            "{all}"
        );
        let error = found("regions/pond").expect_err("nowhere");
        assert!(
            error.contains("are: lake") && error.contains("are: sea"),
            "{error}"
        );
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
