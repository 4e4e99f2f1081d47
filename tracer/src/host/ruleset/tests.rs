//! Rules from recorded listings, from real namespaces, and from programs that misbehave.
