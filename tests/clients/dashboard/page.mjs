// Runs one scenario: page.mjs NAME. CONTROL and PROXY are the addresses of a running gateway.
import process from "node:process";
import { run } from "./scene.mjs";
import * as access from "./access.mjs";
import * as crowd from "./crowd.mjs";
import * as looks from "./looks.mjs";
import * as operating from "./operating.mjs";
import * as watching from "./watching.mjs";

const scenarios = { ...access, ...crowd, ...looks, ...operating, ...watching };
const scenario = scenarios[process.argv[2]];
if (!scenario) throw new Error(`no scenario ${process.argv[2]}; there are ${Object.keys(scenarios).join(", ")}`);
await run(scenario);
