// Makes the component greet.wasm of greet.js, against the contract in sdk/wit.

import { writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const { component } = await componentize({
  sourcePath: "greet.js",
  witPath: "../../sdk/wit",
  worldName: "consumer",
  // What is left out need not be granted, and is not compiled.
  disableFeatures: ["http", "fetch-event"],
});
await writeFile("greet.wasm", component);
