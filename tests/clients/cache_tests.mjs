// Runs the tests of the package http-cache-tests through a cache and prints what became of them.
// Usage: cache_tests.mjs FOLDER_OF_THE_PACKAGE BASE_URL [ID]
import { pathToFileURL } from 'node:url'
import { createRequire } from 'node:module'

const [folder, base, only] = process.argv.slice(2)
const load = path => import(pathToFileURL(`${folder}/${path}`))
const fetch = createRequire(`${folder}/cli.mjs`)('node-fetch')
const { runTests, getResults } = await load('client/runner.mjs')
const suites = (await load('tests/index.mjs')).default
suites.push((await load('tests/surrogate-control.mjs')).default)

const tests = suites.flatMap(suite => suite.tests.map(test => ({ suite: suite.id, ...test })))
  .filter(test => !test.browser_only && (!only || test.id === only))
await runTests([{ id: 'all', name: 'all', tests }], fetch, false, base)
const results = getResults()
for (const test of tests) {
  const kind = test.kind || 'required'
  const result = results[test.id]
  const outcome = result === true ? 'pass' : Array.isArray(result) && result[0] === 'Setup' ? 'setup' : 'fail'
  console.log(JSON.stringify({ id: test.id, suite: test.suite, kind, outcome, why: result === true ? '' : String(result?.[1]) }))
}
process.exit(0)
