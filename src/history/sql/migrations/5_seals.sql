-- Shows that a holder of the signing key wrote the record; NULL if an older version of the program wrote it.
ALTER TABLE records ADD COLUMN seal TEXT;
