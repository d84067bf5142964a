//! `twemslot-configsvr`: one member of the control plane.

fn main() {}
