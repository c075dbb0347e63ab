//! Components that are written by hand, for what no compiler makes of Rust.

/// A consumer whose handler calls `$f` of `core`, which has neither parameters nor results, and acknowledges.
pub(crate) fn component_of(core: &str) -> Vec<u8> {
    const MESSAGE: &str = r#"(record (field "id" string) (field "queue" string) (field "body" (list u8))
        (field "content-type" (option string)) (field "key" (option string))
        (field "attributes" (list (tuple string string))) (field "attempt" u32) (field "enqueued-at-ms" u64))"#;
    const RETRY: &str = r#"(record (field "reason" string) (field "after-ms" (option u64)))"#;
    const FAILURE: &str = r#"(variant (case "retry" $retry) (case "snooze" u64) (case "dead-letter" string))"#;
    let text = format!(
        r#"(component
            (import "linecook:worker/types@0.1.0" (instance $types
                (type $message' {MESSAGE}) (export "message" (type $message (eq $message')))
                (type $retry' {RETRY}) (export "retry" (type $retry (eq $retry')))
                (type $failure' {FAILURE}) (export "failure" (type $failure (eq $failure')))))
            (alias export $types "message" (type $message))
            (alias export $types "failure" (type $failure))
            (core module $m
                (memory (export "memory") 1)
                (global $free (mut i32) (i32.const 1024))
                ;; Gives room, and never takes it back.
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (local $at i32)
                    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
                    (global.set $free (i32.add (local.get $at) (local.get 3)))
                    (local.get $at))
                {core}
                ;; The fields of the message, one by one; the result lies at 0, where zeros say ok.
                (func (export "handle")
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
                    (call $f) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $handle (param "message" $message) (result (result (error $failure)))
                (canon lift (core func $i "handle") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
            (component $shim
                (type $message0 {MESSAGE}) (import "message" (type $message (eq $message0)))
                (type $retry0 {RETRY}) (import "retry" (type $retry (eq $retry0)))
                (type $failure0 {FAILURE}) (import "failure" (type $failure (eq $failure0)))
                (import "handle" (func $f (param "message" $message) (result (result (error $failure)))))
                (export $message' "message" (type $message))
                (export $failure' "failure" (type $failure))
                (export "handle" (func $f) (func (param "message" $message') (result (result (error $failure'))))))
            (alias export $types "retry" (type $retry))
            (instance $handler (instantiate $shim (with "message" (type $message)) (with "retry" (type $retry))
                (with "failure" (type $failure)) (with "handle" (func $handle))))
            (export "linecook:worker/handler@0.1.0" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}
