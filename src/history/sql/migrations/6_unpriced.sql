-- Answers without a price, which are not in cost_usd. Rows of an older version of the program have 0 and a cost of 0.
ALTER TABLE usage ADD COLUMN unpriced_answers INTEGER NOT NULL DEFAULT 0;
