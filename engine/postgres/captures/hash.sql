-- Hash indexes: splits of buckets, overflow pages, bitmaps, squeezing, vacuum and deletion of dead items.
select setseed(0.12);
create function many(a int, b int) returns setof int language sql as $$ select i from generate_series(a, b) i $$;

-- Built empty, small, and large enough for more buckets than a splitpoint doubles; with other fill factors and types.
create table one(k int, t text); create index one_k on one using hash(k); create index one_t on one using hash(t) with (fillfactor = 20);
create table large(k int); insert into large select many(1, 30000); create index large_k on large using hash(k) with (fillfactor = 10);
create table fair(k bigint); insert into fair select many(1, 2000); create index fair_k on fair using hash(k); create index fair_full on fair using hash(k) with (fillfactor = 100);
create unlogged table fleeting(k int); create index fleeting_k on fleeting using hash(k); insert into fleeting select many(1, 100);

-- Splits, overflow pages of few keys, and their deletion and use again.
insert into one select i, md5(i::text) from many(1, 6000) i;
insert into one select i % 3, md5((i % 5)::text) from many(1, 5000) i;
delete from one where k < 3 and random() < 0.4; vacuum one;
insert into one select i % 4, 'four' from many(1, 4000) i;
delete from one where k in (1, 2); vacuum one;
insert into one select -i, i::text from many(1, 4000) i; vacuum one;
delete from one where random() < 0.5; vacuum one; insert into one select 7, 'seven' from many(1, 3000); delete from one where k = 7 and random() < 0.97; vacuum one;
insert into one select i, 'more' from many(1, 4000) i;
delete from one; vacuum one; insert into one select i % 100, 'again' from many(1, 5000) i;
insert into large select many(1, 6000); delete from large where k % 3 = 0; vacuum large; insert into large select 5 from many(1, 5000); vacuum large;
insert into fair select many(1, 3000); delete from fair where k % 2 = 0; vacuum fair; reindex index fair_k;

-- Dead items that scans have marked are deleted when their page is full.
create table churn(k int, v int); create index churn_k on churn using hash(k);
insert into churn select i % 4, i from many(1, 1500) i;
set enable_seqscan = off; set enable_bitmapscan = off;
do $$ declare n int; begin for i in 1..30 loop
    delete from churn where k = i % 4 and v % 3 = i % 3; commit; select count(*) into n from churn where k = i % 4; select count(*) into n from churn where k = (i + 1) % 4;
    insert into churn select j % 4, j from many(1, 400) j; commit;
end loop; end $$;
reset enable_seqscan; reset enable_bitmapscan; vacuum churn;

-- A transaction that is rolled back leaves its items; a bucket is split while others are long.
begin; insert into one select i, 'gone' from many(1, 3000) i; rollback; vacuum one; insert into churn select i, i from many(1, 9000) i; vacuum churn; delete from churn where k > 10; vacuum churn;
truncate one; insert into one select i, i::text from many(1, 300) i; drop table large; checkpoint; insert into fair select many(1, 500); delete from fair where k < 300; vacuum fair;
