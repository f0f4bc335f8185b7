INSERT INTO usage (seq, model, requests, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
reasoning_tokens, unpriced_answers, estimated_answers, cost_usd)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
