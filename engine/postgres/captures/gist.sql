-- GiST: every record, several times. Killed items, deleted pages that are used again, splits up to the root.
select setseed(0.15);
create function pg_temp.word() returns text language sql volatile as $$ select substr(md5(random()::text), 1, 3 + floor(random() * 4)::int) $$;
create function pg_temp.wide(n int) returns polygon language sql volatile as $$
    select format('(%s)', string_agg(format('(%s,%s)', random() * 100, random() * 100), ','))::polygon from generate_series(1, n) $$;

-- Trees that grow one tuple at a time: splits of leaves, inner pages and the root; tuples that take the place of others.
create table place(id int, at point, area box, during int4range, words tsvector, shape polygon);
create index place_at on place using gist(at) with (fillfactor = 90);
create index place_area on place using gist(area);
create index place_during on place using gist(during) include (id);
create index place_words on place using gist(words tsvector_ops(siglen = 400));
create index place_shape on place using gist(shape);
create index place_both on place using gist(during, at) where id % 3 = 0;
insert into place select i, point(random() * 1000, random() * 1000), box(point(i, i % 100), point(i + random() * 9, 0)),
    int4range(i, i + 1 + (random() * 20)::int), to_tsvector('simple', pg_temp.word() || ' ' || pg_temp.word()), pg_temp.wide(3)
    from generate_series(1, 3200) i;
checkpoint;
insert into place select i, point(i, -i), box(point(-i, i), point(i, -i)), int4range(-i, i), to_tsvector('simple', pg_temp.word()), pg_temp.wide(5)
    from generate_series(4001, 4600) i;
update place set at = point(at[1], at[0]), during = int4range(lower(during) - 1, upper(during) + 5) where id % 5 = 0;

-- Items that index scans find dead, and that the next insertion into a full page takes away.
create table dense(id int, during int4range, at point);
create index dense_during on dense using gist(during);
create index dense_at on dense using gist(at);
insert into dense select i, int4range(i % 200, i % 200 + 1), point(i % 200, i % 7) from generate_series(1, 3000) i;
set enable_seqscan = off; set enable_bitmapscan = off;
create function churn(first int) returns void language plpgsql as $$
begin
    for i in 1..1000 loop
        insert into dense values (first + i, int4range(i % 200, i % 200 + 1), point(i % 200, i % 7));
    end loop;
end $$;
do $$ begin
    for round in 1..4 loop
        delete from dense where id % 4 = round - 1; commit;
        perform count(*) from dense where during && int4range(0, 500);
        perform count(*) from dense where at <@ box(point(-1, -1), point(500, 500));
        commit;
        perform churn(10000 * round); commit;
    end loop;
end $$;
checkpoint;
do $$ begin
    for round in 1..4 loop
        delete from dense where id % 4 = round - 1; commit;
        perform count(*) from dense where during && int4range(0, 500);
        perform count(*) from dense where at <@ box(point(-1, -1), point(500, 500));
        commit;
        perform churn(100000 * round); commit;
    end loop;
end $$;
reset enable_seqscan; reset enable_bitmapscan;

-- Vacuum: tuples, then pages; pages that are used again.
vacuum dense;
delete from place where id % 4 = 1; vacuum place;
delete from place where at[0] < 500 or id between 1000 and 3500; vacuum place;
select txid_current(); select txid_current(); vacuum place;
select txid_current(); vacuum place;
insert into place select i, point(random() * 1000, random() * 1000), box(point(i, i % 100), point(i + random() * 9, 0)),
    int4range(i, i + 1 + (random() * 20)::int), to_tsvector('simple', pg_temp.word() || ' ' || pg_temp.word()), pg_temp.wide(3)
    from generate_series(5001, 6500) i;
delete from place where id > 4500; vacuum place;
delete from dense; vacuum dense; select txid_current(); vacuum dense;
insert into dense select i, int4range(i % 300, i % 300 + 2), point(i % 300, i % 5) from generate_series(1, 2000) i;
delete from place; vacuum place; select txid_current(); vacuum place;
insert into place select i, point(i, i), box(point(i, i), point(0, 0)), int4range(i, i + 2), to_tsvector('simple', pg_temp.word()), pg_temp.wide(4)
    from generate_series(1, 600) i;

-- Built when there are tuples: sorted, and not.
create index on place using gist(at); create index on place using gist(shape) with (buffering = on); reindex index place_words;
insert into place select i, point(-i, i), box(point(i, i), point(9, 9)), int4range(i, i + 2), to_tsvector('simple', pg_temp.word()), pg_temp.wide(4)
    from generate_series(1, 300) i;
