-- BRIN: ranges that are summarised, widened in place and elsewhere, and no longer summarised; maps of several pages.
select setseed(0.17);
create table plain(a int, b text, c timestamptz); create index plain_a on plain using brin(a) with (pages_per_range = 1);
create index plain_b on plain using brin(b, a) with (pages_per_range = 2, autosummarize = on); create index plain_c on plain using brin(c);
insert into plain select i, repeat('b', i % 120), '2020-01-01'::timestamptz + i * interval '1 hour' from generate_series(1, 8000) i;
vacuum plain; select brin_summarize_new_values('plain_a'), brin_summarize_new_values('plain_b'), brin_summarize_new_values('plain_c');
insert into plain select i, md5(i::text) || repeat('c', i % 900), now() from generate_series(1, 5000) i; vacuum plain;
update plain set a = -a where a % 50 = 0; update plain set b = repeat('longer', a % 200) where a % 17 = 0; vacuum plain;
delete from plain where a % 3 = 0; vacuum plain; insert into plain select 100000 - i, repeat('z', i % 1500), now() from generate_series(1, 1500) i;
select count(brin_desummarize_range('plain_a', i)), count(brin_desummarize_range('plain_b', i)) from generate_series(0, 200, 3) i;
select brin_summarize_range('plain_a', i) from generate_series(0, 150, 6) i; vacuum plain;
select brin_desummarize_range('plain_a', i) from generate_series(0, 400) i; insert into plain select i, 'x' from generate_series(1, 400) i; vacuum plain;

-- Built over a table that is full; summaries that grow until their page is.
create table wide(k int, t text) with (fillfactor = 20); insert into wide select i, repeat(chr(97 + i % 26), 500) from generate_series(1, 3000) i;
create index wide_t on wide using brin(t) with (pages_per_range = 1); create index wide_many on wide using brin(t text_bloom_ops) with (pages_per_range = 4);
create index wide_minmax on wide using brin(k int4_minmax_multi_ops) with (pages_per_range = 8); create index wide_all on wide using brin(t);
update wide set t = repeat(chr(97 + k % 26), 600 + k % 1400) where k % 7 = 0; insert into wide select i, repeat('y', i) from generate_series(1, 1900) i;
update wide set t = repeat('~', 1800) where k % 11 = 0; update wide set t = '' where k % 13 = 0; vacuum wide;
insert into wide select random() * 1000000, repeat('m', 300) from generate_series(1, 1500); vacuum wide; delete from wide where k % 2 = 0; vacuum wide;

-- More ranges than a map page has: the map takes the place of pages whose tuples go elsewhere.
create table tall(k int, f char(2000)); create index tall_k on tall using brin(k) with (pages_per_range = 1); create index tall_f on tall using brin(k, f) with (pages_per_range = 1);
insert into tall select i, 'f' from generate_series(1, 3000) i; vacuum tall; insert into tall select i, 'g' from generate_series(1, 3000) i; vacuum tall;
update tall set k = k + 1 where k % 100 = 0; truncate tall; insert into tall select i, 'h' from generate_series(1, 40) i; vacuum tall; checkpoint;
insert into plain select i, repeat('q', 70) from generate_series(1, 3000) i; vacuum plain; update plain set a = a * 3 where a % 5 = 0; drop table wide; vacuum freeze;
