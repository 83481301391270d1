-- SP-GiST: every record, several times. Chains that move, inner tuples that grow and are split, redirections that vacuum takes away.
select setseed(0.15);
create function pg_temp.word(n int) returns text language sql volatile as $$ select substr(md5(random()::text) || md5(random()::text), 1, n) $$;

-- A small tree first: vacuum of a root that is a leaf, with nulls beside it.
create table small(id int, word text);
create index small_word on small using spgist(word) include (id);
insert into small select i, case when i % 5 > 0 then pg_temp.word(12) end from generate_series(1, 60) i;
delete from small where id % 3 = 0; vacuum small;
insert into small select i, case when i % 5 > 0 then pg_temp.word(12) end from generate_series(61, 110) i;
delete from small where id between 20 and 80; vacuum small;
checkpoint; delete from small where id % 2 = 1; vacuum small;
insert into small select i, null from generate_series(1, 1200) i; delete from small where word is null and id % 4 = 1; vacuum small;

-- Radix trees: labels that are added, prefixes that are split, pages that get full of them.
create table words(id int, word text, host inet, at point, during int4range, area box);
create index words_word on words using spgist(word);
create index words_host on words using spgist(host);
create index words_quad on words using spgist(at quad_point_ops);
create index words_kd on words using spgist(at kd_point_ops);
create index words_during on words using spgist(during);
create index words_area on words using spgist(area) include (id);
create function fill_words(first int, last int) returns void language sql volatile as $$
    insert into words select i,
        case i % 4 when 0 then pg_temp.word(6 + i % 20) when 1 then repeat(chr(33 + i % 90), 1 + i % 17) || chr(33 + i * 7 % 90) || pg_temp.word(i % 9)
            when 2 then repeat('prefix', 20) || substr(repeat('xyz', 30), 1, i % 80) || chr(1 + i * 13 % 120) || pg_temp.word(3)
            else case when i % 20 <> 3 then 'www.' || chr(97 + i % 26) || chr(97 + i / 26 % 26) || chr(128 + i % 127) || pg_temp.word(40) end end,
        case when i % 11 > 0 then ('10.' || i % 9 || '.' || i / 9 % 256 || '.' || (random() * 255)::int || '/' || 24 + i % 9)::inet end,
        case when i % 13 > 0 then point(random() * 1000, random() * (i % 100)) end,
        case when i % 17 = 0 then 'empty' when i % 19 > 0 then int4range(i % 500, i % 500 + (random() * 50)::int + 1) end,
        box(point(random() * 100, random() * 100), point(random() * 100, random() * 100))
    from generate_series(first, last) i $$;
select fill_words(1, 2500);
checkpoint;
select fill_words(2501, 4000);
select txid_current(); vacuum words;

-- Tuples of chains and whole chains go; what comes then takes their places.
delete from words where id % 3 = 0; vacuum words;
select fill_words(4001, 5000);
delete from words where id % 7 < 3; vacuum words;
select txid_current(); vacuum words;
select fill_words(5001, 6000);
checkpoint;
delete from words where id between 1000 and 4000; vacuum words;
select fill_words(6001, 7500);
select txid_current(); vacuum words;
delete from words where word < 'p' or at[0] > 300; vacuum words;
select fill_words(7501, 8000);
delete from words; vacuum words; select txid_current(); vacuum words;
select fill_words(1, 1500);

-- The same value again and again: all nodes are the same, and the chains long.
create table same(id int, word text, at point);
create index same_word on same using spgist(word);
create index same_at on same using spgist(at);
insert into same select i, 'same', point(1, 1) from generate_series(1, 1500) i;
delete from same where id % 2 = 0; vacuum same;
insert into same select i, 'same' || i % 3, point(1, i % 3) from generate_series(1, 900) i;
delete from same where id % 5 < 4; vacuum same; select txid_current(); vacuum same;
insert into same select i, 'other' || i, point(i, -i) from generate_series(1, 900) i;

-- Long prefixes that are split again and again, on one page and on two; inner tuples that outgrow their pages.
create table prefixes(id int, word text);
create index prefixes_word on prefixes using spgist(word);
create function fill_prefixes(seed int) returns void language sql volatile as $$
    insert into prefixes select k, repeat(chr(64 + k), 60) || pg_temp.word(50) from generate_series(1, 25) k, generate_series(1, 110);
    insert into prefixes select k, repeat(chr(64 + k), 61 - j * 4 - seed) || '-' || j || pg_temp.word(20) from generate_series(1, 14) j, generate_series(1, 25) k;
    insert into prefixes select k, repeat(chr(64 + k), 61 - j * 4 - seed) || chr(i) || pg_temp.word(9)
        from generate_series(1, 14) j, generate_series(1, 25, 3) k, generate_series(33, 127, 5) i $$;
select fill_prefixes(0);
delete from prefixes where id % 2 = 0; vacuum prefixes; select txid_current(); vacuum prefixes;
checkpoint;
select fill_prefixes(1); vacuum prefixes;
delete from prefixes where id % 3 = 1; vacuum prefixes; select txid_current(); vacuum prefixes;

-- Built when there are tuples.
create index on words using spgist(word); reindex index words_quad;
select fill_words(1, 300);
