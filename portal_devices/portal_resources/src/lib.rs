//! Configuration handles of Portal devices and regions
