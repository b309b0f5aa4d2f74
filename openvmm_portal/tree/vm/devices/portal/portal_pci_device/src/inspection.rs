// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! The function's tree of named values as an inspect tree.

use inspect::Inspect;
use inspect::Request;
use portal_device::inspect::Node;
use portal_device::inspect::Value;

/// A tree of the device core.
pub(crate) struct Tree<'a>(pub(crate) &'a Node);

impl Inspect for Tree<'_> {
    fn inspect(&self, req: Request<'_>) {
        let mut response = req.respond();
        for (name, value) in self.0.entries() {
            match value {
                Value::Number(n) => response.field(name, n),
                Value::Hex(n) => response.hex(name, n),
                Value::Flag(on) => response.field(name, on),
                Value::Text(text) => response.field(name, text.as_ref()),
                Value::Node(node) => response.field(name, Tree(node)),
                Value::Absent => response.field(name, None::<u64>),
            };
        }
    }
}
