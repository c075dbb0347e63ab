use linecook_sdk::consumer;

#[consumer]
struct Bad;

fn main() {}
